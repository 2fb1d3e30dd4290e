"""The prey's policy: its network, and the files it is read from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["PreyPolicy", "load_prey"]

ASSETS = Path(__file__).parent / "assets"
PREDATORS = 3
LAYERS = ("fc1", "fc2", "fc3")


class PreyPolicy(nn.Module):
    """Batch norm on the input, two hidden ReLU layers, tanh: from observations to actions.

    The layer names are those of the literature's pretrained files. The prey acts with the
    running statistics of its batch norm (``eval`` mode) and without noise.

    Args:
        observation_size: number of entries of the prey's observation.
        hidden: width of the hidden layers.

    Example:
        >>> policy = PreyPolicy(14).eval()
        >>> tuple(policy(torch.zeros(5, 14)).shape)
        (5, 2)
    """

    def __init__(self, observation_size: int, hidden: int = 64) -> None:
        super().__init__()
        self.in_fn = nn.BatchNorm1d(observation_size)
        self.fc1 = nn.Linear(observation_size, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.fc3 = nn.Linear(hidden, 2)

    def forward(self, observation: Tensor) -> Tensor:
        """Actions ``[worlds, 2]`` in [-1, 1] for observations ``[worlds, observation_size]``."""
        hidden = torch.relu(self.fc1(self.in_fn(observation)))
        return torch.tanh(self.fc3(torch.relu(self.fc2(hidden))))


def load_prey(
    task: str,
    path: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> PreyPolicy:
    """Read a prey's policy.

    Args:
        task: ``predator_prey`` or ``world``, which chooses the prey that comes with the package.
        path: a ``.safetensors`` file with the parameters of :class:`PreyPolicy`; or a ``.pt``
            file in the layout of OMAR's ``pretrained_adv_model.pt``, a dictionary whose
            ``agent_params`` lists the predators first and then the prey, each with ``policy``;
            or ``None`` for the package's own prey.
        dtype: floating point type of the policy.
        device: device of the policy.

    Returns:
        The policy in ``eval`` mode, without gradients for its parameters.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file holds something else than a prey.

    Example:
        >>> load_prey("world").fc1.in_features
        22
    """
    file = ASSETS / f"{task}_prey.safetensors" if path is None else Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"no prey policy at {file}: check task.prey_policy")
    try:
        if file.suffix == ".safetensors":
            content: Any = load_file(file)
        else:
            # weights_only: a stranger's file must not be able to run code
            content = torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # each of many kinds, by what the file holds instead
        raise ValueError(
            f"{file} is not a prey policy: expected safetensors or a checkpoint of torch's that "
            f"holds numbers only, found what cannot be read as that ({error})"
        ) from error
    parameters: Mapping[str, Tensor] = (
        content if file.suffix == ".safetensors" else _prey_of_checkpoint(content, file)
    )
    try:
        hidden, observation_size = parameters["fc1.weight"].shape
        # without initial values, whose drawing would disturb the caller's random numbers
        with torch.device("meta"):
            policy = PreyPolicy(observation_size, hidden)
        policy.load_state_dict(dict(parameters), assign=True)
    except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{file} is not a prey policy: expected the parameters of a batch norm 'in_fn' and of "
            f"the layers {', '.join(LAYERS)}, found {sorted(map(str, parameters))}"
        ) from error
    return policy.to(device=device, dtype=dtype).eval().requires_grad_(False)


def _prey_of_checkpoint(checkpoint: Any, file: Path) -> Mapping[str, Tensor]:
    """The parameters of the prey in a checkpoint that lists three predators and one prey."""
    agents = checkpoint.get("agent_params") if isinstance(checkpoint, dict) else None
    if not isinstance(agents, list) or len(agents) <= PREDATORS:
        raise ValueError(
            f"{file} is not a pretrained prey: expected a dictionary with 'agent_params', a list "
            f"of {PREDATORS} predators and the prey, found "
            + (
                f"the keys {sorted(checkpoint)}"
                if isinstance(checkpoint, dict)
                else "no dictionary"
            )
        )
    prey = agents[PREDATORS]
    policy = prey.get("policy") if isinstance(prey, dict) else None
    if not isinstance(policy, dict):
        raise ValueError(
            f"{file} is not a pretrained prey: expected its 'policy', a dictionary of parameters, "
            f"found {type(policy).__name__}"
        )
    return policy
