"""Plays whole episodes in a TorchRL environment and says truly how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import Compose, EnvBase, TensorDictPrimer
from torchrl.envs.utils import step_mdp

from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.layout import Key

Policy = Callable[[TensorDictBase], Any]

_ENDS = ("done", "terminated", "truncated")


def observation_keys(env: EnvBase, groups: Mapping[str, Sequence[str]]) -> list[Key]:
    """List what the agents of an environment see, and its ``state`` if it has one.

    Args:
        env: a TorchRL environment.
        groups: names of the agents, by group.

    Returns:
        Keys of the observation spec under the groups, without ``info`` and without hidden states
        of recurrent policies, and ``("state",)``.

    Raises:
        DatasetError: if a group sees nothing.
    """
    hidden = {key for primer in _primers(env) for key in _as_keys(primer.primers.keys(True, True))}
    keys = [
        key
        for key in _as_keys(env.full_observation_spec.keys(True, True))
        if key == ("state",) or (key[0] in groups and key[1] != "info" and key not in hidden)
    ]
    for group in groups:
        if not any(key[0] == group for key in keys):
            raise DatasetError(
                f"expected observations of group {group!r}, found the keys {sorted(keys)}; "
                "name the groups as the environment does"
            )
    return sorted(keys)


def rollout_chunks(
    env: EnvBase,
    policy: Policy | None,
    *,
    max_steps: int,
    groups: Mapping[str, Sequence[str]],
    keys: Sequence[Key] | None = None,
) -> Iterator[TensorDict]:
    """Play episodes without end, one in each of the environment's instances at a time.

    An instance's episode is cut at its first ``done``. The flags tell truly how it ended: an
    environment that has ``truncated`` is believed; a VMAS environment, which calls its time limit
    a termination, is asked what its scenario says; an episode still going after ``max_steps`` is
    truncated.

    Args:
        env: a TorchRL environment of batch size ``[E]`` or ``[]``.
        policy: takes and returns TensorDicts, such as a ``TensorDictModule``; None draws actions
            uniformly. If it has a method ``reset``, this is called with the TensorDict of each
            batch of episodes' start, whose batch size is the environment's.
        max_steps: longest episode, in steps.
        groups: names of the agents, by group.
        keys: what to store besides actions, rewards and flags; None takes
            :func:`observation_keys`.

    Yields:
        Whole episodes ``[t]`` on the CPU, one after the other, as ``DatasetWriter.extend`` takes
        them; on each draw as many episodes as the environment has instances.

    Raises:
        DatasetError: if the environment's batch size has two dimensions or more, or ``max_steps``
            is not positive.

    Example:
        >>> from torchrl.envs.libs.vmas import VmasEnv
        >>> env = VmasEnv("balance", num_envs=2, max_steps=3, seed=0)
        >>> chunks = rollout_chunks(env, None, max_steps=100, groups=env.group_map)
        >>> chunk = next(chunks)
        >>> int(chunk["next", "done"].sum()), chunk["agents", "action"].shape[1:]
        (2, torch.Size([3, 2]))
    """
    if len(env.batch_size) > 1 or max_steps < 1:
        raise DatasetError(
            "expected an environment of batch size [E] or [] and max_steps of at least 1, found "
            f"{list(env.batch_size)} and {max_steps}; unwrap the environment or allow more steps"
        )
    player = _Player(env, policy, max_steps, groups, keys)
    while True:
        yield player.play()


class _Player:
    def __init__(
        self,
        env: EnvBase,
        policy: Policy | None,
        max_steps: int,
        groups: Mapping[str, Sequence[str]],
        keys: Sequence[Key] | None,
    ) -> None:
        self.env, self.max_steps, self.groups = env, max_steps, groups
        self.policy: Policy = policy if policy is not None else env.rand_action
        self.instances = env.batch_size.numel()
        seen = list(keys) if keys is not None else observation_keys(env, groups)
        self.before: list[Key] = [*seen, *((group, "action") for group in groups)]
        done_keys = _as_keys(env.done_keys)
        self.group_ends: list[Key] = [k for k in done_keys if len(k) == 2 and k[0] in groups]
        self.after: list[Key] = [*seen, *self.group_ends]
        self.limit = _time_limit(env)

    @torch.no_grad()
    def play(self) -> TensorDict:
        """Play one episode in each instance; the episodes ``[t]``, one after the other."""
        data = self.env.reset()
        if hasattr(self.policy, "reset"):
            self.policy.reset(data)
        playing = torch.ones(self.instances, dtype=torch.bool)
        lengths = torch.zeros(self.instances, dtype=torch.int64)
        rows: list[TensorDict] = []
        while True:
            acted = self.policy(data)
            data = data if acted is None else acted
            # Copied before the step: an environment may write into what it was given.
            row = self._row(data, self.before)
            self._check_actions(row)
            data = self.env.step(data)
            row["next"] = self._outcome(data["next"], last=len(rows) + 1 == self.max_steps)
            rows.append(row)
            lengths += playing
            finished = row["next", "done"]
            playing = playing & ~finished.flatten()
            if not playing.any():
                break
            data = self._restart(data, finished)
        steps = torch.stack(rows, 1)
        return steps[torch.arange(len(rows)) < lengths.unsqueeze(1)]

    def _restart(self, data: TensorDictBase, finished: torch.Tensor) -> TensorDictBase:
        """Move on by a step; instances whose episode is over start another, which goes unseen."""
        data = step_mdp(
            data,
            reward_keys=self.env.reward_keys,
            action_keys=self.env.action_keys,
            done_keys=self.env.done_keys,
        )
        for key in self.env.done_keys:
            # An agent that is done waits for its team: without this, it alone would be reset.
            flag = data.get(key)
            over = finished.reshape(
                *self.env.batch_size, *[1] * (flag.ndim - len(self.env.batch_size))
            )
            data.set(key, over.to(flag.device).expand_as(flag).clone())
        return self.env.maybe_reset(data)

    def _check_actions(self, row: TensorDict) -> None:
        for group in self.groups:
            if not row[group, "action"].isfinite().all():  # simulators fail on them unclearly
                raise DatasetError(
                    f"expected finite actions of group {group!r}, found NaN or infinity from the "
                    "policy; mend the policy"
                )

    def _row(self, data: TensorDictBase, keys: Sequence[Key]) -> TensorDict:
        row = TensorDict({}, batch_size=[self.instances])
        for key in keys:
            values = data.get(key).detach()
            row.set(key, self._flat(values).to("cpu", copy=True))
        return row

    def _flat(self, values: torch.Tensor) -> torch.Tensor:
        return values if self.env.batch_size else values.unsqueeze(0)

    def _outcome(self, after: TensorDictBase, last: bool) -> TensorDict:
        row = self._row(after, self.after)
        for group, agents in self.groups.items():
            reward = after.get((group, "reward"), None)
            if reward is None:  # one reward for the whole team
                reward = after.get("reward").unsqueeze(-2)
                reward = reward.expand(*reward.shape[:-2], len(agents), 1)
            row[group, "reward"] = self._flat(reward.detach()).to("cpu", copy=True)
        terminated, truncated = self._ends(after, row)
        if last:
            truncated = truncated | ~(terminated | truncated)
            self._cut_groups(row)
        row["terminated"], row["truncated"] = terminated, truncated
        row["done"] = terminated | truncated
        return row

    def _ends(self, after: TensorDictBase, row: TensorDict) -> tuple[torch.Tensor, torch.Tensor]:
        flags = {
            end: self._flat(after.get(end)).cpu().reshape(-1, 1)
            for end in _ENDS
            if after.get(end, None) is not None
        }
        if not flags:  # only the groups have flags: the episode ends when all agents are done
            flags = self._ends_of_groups(row)
        done = flags.get("done", torch.zeros(self.instances, 1, dtype=torch.bool))
        terminated = flags.get("terminated", done)
        truncated = flags.get("truncated", torch.zeros_like(done))
        if self.limit is not None:
            terminated = self.limit().cpu().reshape(-1, 1)
            truncated = (done | truncated) & ~terminated
        return terminated.clone(), truncated.clone()

    def _ends_of_groups(self, row: TensorDict) -> dict[str, torch.Tensor]:
        def gather(end: str) -> torch.Tensor:
            found = [row.get((g, end), None) for g in self.groups]
            columns = [flag.reshape(self.instances, -1) for flag in found if flag is not None]
            return torch.cat(columns, 1) if columns else torch.zeros(self.instances, 0).bool()

        done, terminated = gather("done"), gather("terminated")
        all_done = done.all(1, keepdim=True) & bool(done.shape[1])
        any_terminated = all_done & terminated.any(1, keepdim=True)
        return {
            "done": all_done,
            "terminated": any_terminated,
            "truncated": all_done & ~any_terminated,
        }

    def _cut_groups(self, row: TensorDict) -> None:
        for group in self.groups:
            done, truncated = (row.get((group, end), None) for end in ("done", "truncated"))
            if done is not None and truncated is not None:
                truncated |= ~done
            if done is not None:
                done.fill_(True)


def _time_limit(env: EnvBase) -> Callable[[], torch.Tensor] | None:
    """Find who knows whether a VMAS episode truly ended: its scenario, asked after a step."""
    base = _base(env)
    if "truncated" in base.done_keys:
        return None  # this environment tells the two apart itself
    simulator = getattr(base, "_env", None)
    scenario = getattr(simulator, "scenario", None)
    if hasattr(simulator, "max_steps") and callable(getattr(scenario, "done", None)):
        return scenario.done  # type: ignore[union-attr]
    return None


def _base(env: Any) -> Any:
    while hasattr(env, "base_env"):
        env = env.base_env
    return env


def _primers(env: Any) -> list[TensorDictPrimer]:
    found: list[TensorDictPrimer] = []
    while hasattr(env, "base_env"):
        transforms = env.transform if isinstance(env.transform, Compose) else [env.transform]
        found += [t for t in transforms if isinstance(t, TensorDictPrimer)]
        env = env.base_env
    return found


def _as_keys(keys: Any) -> list[Key]:
    return [key if isinstance(key, tuple) else (key,) for key in keys]
