"""Options of the tasks that play a dataset back."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from benchmarl_ssd.environments.common import require, require_int, require_number


@dataclass
class TaskConfig:
    """Options of ``logged/dataset``; see ``conf/task/logged/dataset.yaml``."""

    dataset: str | None = MISSING
    fqe_steps: int = MISSING
    fqe_steps_in_training: int = MISSING
    fqe_members: int = MISSING
    fqe_num_cells: list[int] = MISSING
    fqe_batch_size: int = MISSING
    fqe_lr: float = MISSING
    fqe_gamma: float = MISSING
    fqe_confidence: float = MISSING

    def __post_init__(self) -> None:
        require_int("fqe_steps", self.fqe_steps, minimum=1)
        require_int("fqe_steps_in_training", self.fqe_steps_in_training, minimum=0)
        require_int("fqe_members", self.fqe_members, minimum=2)
        require_int("fqe_batch_size", self.fqe_batch_size, minimum=1)
        require_number("fqe_lr", self.fqe_lr, low=0.0, strict=True)
        require_number("fqe_gamma", self.fqe_gamma, low=0.0, strict=True)
        require_number("fqe_confidence", self.fqe_confidence, low=0.0, strict=True)
        for width in self.fqe_num_cells:
            require_int("fqe_num_cells", width, minimum=1)
        require(
            self.fqe_gamma <= 1,
            expected="fqe_gamma of at most 1",
            found=self.fqe_gamma,
            mend="Leave task.fqe_gamma at 1 for the undiscounted return.",
        )
        require(
            self.fqe_confidence < 1,
            expected="fqe_confidence below 1",
            found=self.fqe_confidence,
            mend="Set task.fqe_confidence=0.95.",
        )
        # A run that is reloaded in Python from another folder still finds its data.
        if self.dataset is not None and Path(self.dataset).expanduser().is_dir():
            self.dataset = str(Path(self.dataset).expanduser().resolve())
