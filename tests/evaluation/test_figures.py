"""Figures: they are written, count right, and complain clearly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarl_ssd.evaluation.figures import plot_joint_actions, plot_paths, tile_frames, write_gif

MODES = torch.tensor([[0.8, -0.8], [-0.8, 0.8]])


def test_joint_actions(tmp_path):
    unplayed = torch.tensor([[0.8, 0.8], [0.7, -0.9]])
    figure = plot_joint_actions(
        {"data": MODES.repeat(80, 1), "method": unplayed}, MODES, 0.25, tmp_path / "a" / "f.png"
    )
    titles = [axis.get_title().splitlines()[1] for axis in figure.axes]
    assert titles == ["100% played together", "50% played together"]
    assert Image.open(tmp_path / "a" / "f.png").size[0] > 500


def test_paths(tmp_path):
    together = np.zeros((2, 5, 3, 2))
    together[:, -1, :, 0] = 1.0
    apart = together.copy()
    apart[0, -1, 0, 0] = -1.0
    figure = plot_paths({"data": together, "method": apart}, path=tmp_path / "paths.png")
    assert figure.axes[0].get_title() == "data\n100% of 2 teams meet"
    assert figure.axes[1].get_title() == "method\n50% of 2 teams meet"
    assert len(figure.axes) == 2 * 3
    assert (tmp_path / "paths.png").stat().st_size > 0


def test_wrong_shape_is_said():
    with pytest.raises(ValueError, match=r"Expected an array \[E, T, n, 2\], found shape \[2, 2\]"):
        plot_paths({"data": MODES})


def test_film(tmp_path):
    films = [[np.full((4, 6, 3), 40 * t + i, dtype=np.uint8) for t in range(5)] for i in range(3)]
    frames = tile_frames(films)
    assert frames[2][:4, :6].max() == 80
    assert frames[2][4:, 6:].min() == 255
    film = Image.open(write_gif(frames, tmp_path / "film.gif"))
    assert film.n_frames == 5
    assert film.size == (12, 8)


def test_an_empty_film_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least one frame"):
        write_gif([], tmp_path / "film.gif")
