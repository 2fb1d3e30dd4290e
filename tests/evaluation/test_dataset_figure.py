"""A dataset's picture shows its numbers and never replaces a file."""

import matplotlib.image
import pytest
import torch

from benchmarl_ssd.data import DatasetError
from benchmarl_ssd.data.describing import describe
from benchmarl_ssd.data.editing import Selection, subset
from benchmarl_ssd.data.examples import write_example
from benchmarl_ssd.evaluation.dataset_figure import plot_dataset


def test_the_picture_shows_the_numbers(tmp_path):
    found = describe(write_example(tmp_path / "data", episodes=30))
    figure = plot_dataset(found, tmp_path / "figure.png")
    returns, lengths, actions, observations = figure.axes[:4]
    heights = [bar.get_height() for bar in returns.patches]
    assert heights == found.returns["histogram"]["counts"]
    assert [bar.get_height() for bar in lengths.patches] == [30]
    assert len(actions.get_xticks()) == 2
    assert returns.get_legend().get_texts()[0].get_text() == f"mean {found.returns['mean']:.2f}"
    assert "effective cells of 1,000" in observations.get_title()
    assert matplotlib.image.imread(tmp_path / "figure.png").shape[2] == 4
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "figure.png"]


def test_nothing_is_replaced_and_nothing_half_is_left(tmp_path):
    path = write_example(tmp_path / "data")
    found = describe(path)
    (tmp_path / "mine.png").write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"found .*mine\.png"):
        plot_dataset(found, tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == b"mine"
    with pytest.raises(DatasetError, match="expected a folder"):
        plot_dataset(found, tmp_path / "none" / "figure.png")
    with pytest.raises(ValueError, match=r"ending in one of .*png.*found 'figure.doc'"):
        plot_dataset(found, tmp_path / "figure.doc")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "mine.png"]


def test_data_that_never_varies_can_be_drawn(tmp_path):
    path = write_example(tmp_path / "data", episodes=2, length=1, agents=1)
    subset(path, tmp_path / "one", Selection(episodes=1))
    found = describe(tmp_path / "one")
    assert torch.isfinite(found.points).all()
    figure = plot_dataset(found)
    assert figure.axes[3].texts[0].get_text() == "they never vary"
