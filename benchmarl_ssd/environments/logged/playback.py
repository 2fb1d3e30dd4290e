"""An environment that plays a dataset's episodes back."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Composite
from torchrl.envs import EnvBase

from benchmarl_ssd.data import OfflineDataset
from benchmarl_ssd.data.layout import name_key
from benchmarl_ssd.environments.logged import specs


class PlaybackEnv(EnvBase):
    """Plays the episodes of a dataset, ``num_envs`` at a time, whatever the agents do.

    Observations, states, rewards and the flags at the root are those of the files, bit for bit.
    The episodes' order is a permutation drawn with the seed; when all have been played, it starts
    again. An episode stays at its last step until it is reset.

    The rewards are what the data's policies earned. They say nothing about the policy that acts
    here: estimate its return with :func:`~benchmarl_ssd.evaluation.off_policy.estimate`.

    Args:
        dataset (OfflineDataset): what to play.
        num_envs (int): episodes played at once, at least 1.
        seed (int, optional): of the order; ``None`` plays them in the order of the file.
        device (torch.device): device of all tensors.

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> dataset = OfflineDataset(write_example())
        >>> env = PlaybackEnv(dataset, num_envs=2)
        >>> rollout = env.rollout(5)
        >>> env.episode.tolist()
        [0, 1]
        >>> stored = dataset.data["next", "agents", "reward"][:5]
        >>> bool(rollout[0]["next", "agents", "reward"].equal(stored))
        True
    """

    batch_locked = True

    def __init__(
        self,
        dataset: OfflineDataset,
        num_envs: int = 1,
        seed: int | None = None,
        device: torch.device | str | int = "cpu",
    ) -> None:
        super().__init__(device=torch.device(device), batch_size=torch.Size([num_envs]))
        metadata = dataset.metadata
        self.dataset = dataset
        self.group_map = {group: list(agents) for group, agents in metadata.groups.items()}
        self.longest_episode = int(metadata.episode_length["max"])
        self._observed = [name_key(name) for name in specs.observed_names(metadata)]
        self._rewards = [(group, "reward") for group in self.group_map]
        self._ends = dataset.data["next", "done"].flatten().nonzero().flatten()
        self._starts = torch.cat([self._ends.new_zeros(1), self._ends[:-1] + 1])
        self._order = torch.arange(len(self._ends))
        self._played = 0
        #: index of the episode that each environment plays, ``[B]``
        self.episode = torch.zeros(num_envs, dtype=torch.long)
        self._row = torch.zeros(num_envs, dtype=torch.long)

        def batched(spec: Composite) -> Composite:
            return spec.to(self.device).expand(num_envs, *spec.shape).clone()

        self.observation_spec = batched(specs.observation_spec(metadata))
        self.action_spec = batched(specs.action_spec(metadata))
        self.reward_spec = batched(specs.reward_spec(metadata))
        self.done_spec = batched(specs.done_spec())
        if seed is not None:
            self.set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            self._order = torch.randperm(len(self._ends), generator=generator)
        self._played = 0

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        fresh = torch.ones(self.batch_size[0]).bool() if mask is None else mask.cpu().view(-1)
        count = int(fresh.sum())
        places = torch.arange(self._played, self._played + count) % len(self._order)
        self._played += count
        self.episode = self.episode.masked_scatter(fresh, self._order[places])
        self._row = torch.where(fresh, self._starts[self.episode], self._row)
        out = self._read(self._observed, self._row)
        no = torch.zeros(*self.batch_size, 1, dtype=torch.bool, device=self.device)
        return out.update({flag: no.clone() for flag in specs.FLAGS})

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        keys = [*self._observed, *self._rewards, *((flag,) for flag in specs.FLAGS)]
        out = self._read(keys, self._row, following=True)
        self._row = torch.minimum(self._row + 1, self._ends[self.episode])
        return out

    def _read(
        self, keys: list[tuple[str, ...]], rows: Tensor, following: bool = False
    ) -> TensorDict:
        worlds = self.batch_size
        out = TensorDict({}, batch_size=worlds, device=self.device)
        for group, agents in self.group_map.items():
            out[group] = TensorDict({}, batch_size=[*worlds, len(agents)], device=self.device)
        source = self.dataset.data.get("next") if following else self.dataset.data
        for key in keys:
            out.set(key, source.get(key)[rows].to(self.device))
        return out
