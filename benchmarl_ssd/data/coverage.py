r"""How much of what it spans a dataset fills.

The agents' observations at one time are one point. Each varying column is standardised, the points
are projected on their (up to three) leading principal axes, and each axis is cut into ten cells
between its 0.5 % and 99.5 % quantiles. With :math:`p_c` the share of points in cell c,

.. math:: C = \exp\Bigl(-\sum_c p_c \log p_c\Bigr)

is the *effective number of cells*: 1 if all points lie in one, the number of cells if they are
spread evenly. Beside it, the *effective number of dimensions* :math:`(\sum_j \lambda_j)^2 / \sum_j
\lambda_j^2` of the standardised points, :math:`\lambda_j` the variances along the principal axes,
tells in how many directions they vary at all.

Both are relative to what the dataset itself spans: they say how evenly it is filled, not how much
of the task's states were reached. To compare datasets, measure them on one grid; what lies outside
of that grid is told apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarl_ssd.data.checks import observation_names
from benchmarl_ssd.data.errors import DatasetError
from benchmarl_ssd.data.metadata import DatasetMetadata
from benchmarl_ssd.data.reading import read_rows
from benchmarl_ssd.data.statistics import sample_rows

CELLS = 10
"""Cells along each axis."""

_AXES = 3
_POINTS = 20_000
_POINT_BYTES = 64 * 1024**2
_WIDEST = 1024
_INNER = (0.005, 0.995)


def sample_observations(path: Path, metadata: DatasetMetadata) -> torch.Tensor:
    """Read what all agents observe at transitions all over the dataset.

    Args:
        path: the dataset's folder.
        metadata: what it says about itself, already validated against the files.

    Returns:
        float32 ``[N, D]``, N at most 20,000, D over all agents and groups; beyond 1024 columns
        their random projection (the same for every dataset of that width).

    Example:
        >>> from benchmarl_ssd.data.examples import write_example
        >>> path = write_example()
        >>> sample_observations(path, DatasetMetadata.read(path)).shape
        torch.Size([20, 6])
    """
    names = [n for group in metadata.groups for n in observation_names(metadata.tensors, group)]
    tensors = {name: metadata.tensors[name] for name in names}
    width = sum(info.bytes // info.torch_dtype.itemsize for info in tensors.values())
    width //= metadata.transitions
    count = min(metadata.transitions, _POINTS, max(100, _POINT_BYTES // (4 * width)))
    chosen = sample_rows(metadata.transitions, count)
    spans = ((row, row + 1) for row in chosen.tolist())
    project = None
    if width > _WIDEST:
        random = torch.Generator().manual_seed(0)
        project = torch.randn(width, _WIDEST, generator=random) / width**0.5
    points = []
    for _, rows in read_rows(path, tensors, spans):
        point = torch.cat([rows[name].flatten().float() for name in names])
        points.append(point if project is None else point @ project)
    return torch.stack(points)


@dataclass
class Grid:
    """Cells that points are counted in.

    Args:
        mean: of each column, ``[D]``.
        scale: what each column is divided by, ``[D]``; infinite where it does not vary.
        axes: principal axes, ``[D, k]``, k up to 3.
        low: where the cells begin on each axis, ``[k]``.
        high: where they end, ``[k]``.
        variances: along all principal axes, largest first.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    axes: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    variances: torch.Tensor

    @classmethod
    def fit(cls, points: torch.Tensor) -> Grid:
        """Lay a grid over points.

        Args:
            points: ``[N, D]``.

        Example:
            >>> points = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
            >>> Grid.fit(points).axes.shape  # one column varies
            torch.Size([2, 1])
        """
        mean, spread = points.mean(0), points.std(0, correction=0)
        # Rounding alone is no variation.
        varies = spread > 1e-6 * points.abs().amax(0).clamp(min=1e-12)
        scale = torch.where(varies, spread, torch.inf)
        centred = ((points - mean) / scale).double()
        variances, axes = torch.linalg.eigh(centred.T @ centred / len(points))
        variances, axes = variances.flip(0).clamp(min=0), axes.flip(1)
        count = min(_AXES, int((variances > 1e-6 * variances[0]).sum()) if varies.any() else 0)
        leading = axes[:, :count]
        # An axis has no direction of its own: the largest entry is made positive.
        largest = leading.abs().argmax(0, keepdim=True) if count else leading[:1].long()
        leading = leading * leading.gather(0, largest).sign()
        projected = centred @ leading
        quantiles = torch.tensor(_INNER, dtype=torch.float64)
        ends = torch.quantile(projected, quantiles, dim=0) if count else projected.new_zeros(2, 0)
        low, high = ends
        return cls(mean, scale, leading, low, high, variances)

    def project(self, points: torch.Tensor) -> torch.Tensor:
        """Give points' places on the axes, 0 where the cells begin and 1 where they end.

        Args:
            points: ``[N, D]``.

        Returns:
            float64 ``[N, k]``.

        Raises:
            DatasetError: if the grid was laid over points of another width.
        """
        if points.shape[1] != len(self.mean):
            raise DatasetError(
                f"expected observations of {len(self.mean)} numbers in all, as those the grid was "
                f"laid over, found {points.shape[1]}; compare datasets of one task"
            )
        projected = ((points - self.mean) / self.scale).double() @ self.axes
        return (projected - self.low) / (self.high - self.low).clamp(min=1e-12)

    def measure(self, points: torch.Tensor) -> dict[str, Any]:
        """Count points in the cells.

        Args:
            points: ``[N, D]``.

        Returns:
            ``points`` N; ``axes`` k; ``explained``, the axes' share of the grid's variance;
            ``cells`` in all, ``occupied`` ones and the ``effective_cells``; ``share``, effective
            cells out of as many as N points can fill; ``outside``, the share of points in no cell;
            ``effective_dimensions`` out of ``dimensions``, of these points themselves.

        Example:
            >>> corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
            >>> found = Grid.fit(corners).measure(corners.repeat(50, 1))
            >>> found["occupied"], found["cells"], round(found["effective_dimensions"], 3)
            (4, 100, 2.0)
        """
        places = self.project(points)
        inside = ((places > -1e-9) & (places < 1 + 1e-9)).all(1)
        cells = CELLS ** self.axes.shape[1]
        at = (places[inside] * CELLS).long().clamp(0, CELLS - 1)
        weights = CELLS ** torch.arange(self.axes.shape[1])
        counts = torch.bincount((at * weights).sum(1), minlength=cells).double()
        share = counts[counts > 0] / counts.sum().clamp(min=1)
        effective = float(torch.exp(-(share * share.log()).sum())) if len(share) else 0.0
        own = Grid.fit(points).variances
        total = float(self.variances.sum())
        return {
            "points": len(points),
            "axes": self.axes.shape[1],
            "explained": float(self.variances[: self.axes.shape[1]].sum()) / total if total else 0,
            "cells": cells,
            "occupied": int((counts > 0).sum()),
            "effective_cells": effective,
            "share": effective / min(cells, len(points)),
            "outside": float((~inside).double().mean()),
            "dimensions": int(self.scale.isfinite().sum()),
            "effective_dimensions": float(own.sum() ** 2 / (own**2).sum()) if own.any() else 0.0,
        }
