"""Rows of shapes that are asked for by pixels, with text tokens, or longer than the bundled video."""

from __future__ import annotations

from pathlib import Path

import pytest

import attnbench
from attnbench.kernels.errors import BadInput

SMALL = {"heads": 1, "head_dim": 8, "device": "cpu", "rounds": 1, "stability_calls": 2}


def test_a_video_longer_than_the_bundled_one_is_flagged(tmp_path: Path) -> None:
    rows = attnbench.run("full", grid="34x2x2", out=tmp_path / "long", **SMALL)
    assert rows.verdict.tolist() == ["ok"]
    assert "replayed-video" in rows["flags"][0].split(",")
    rows = attnbench.run("full", grid="33x2x2", out=tmp_path / "short", **SMALL)
    assert "replayed-video" not in rows["flags"][0].split(",")


def test_pixels_frames_and_text_of_a_model(tmp_path: Path) -> None:
    rows = attnbench.run(
        "full", model="minimax-h3", height=64, width=96, frames=5, text_tokens=9, out=tmp_path / "run", **SMALL
    )
    assert rows.verdict.tolist() == ["ok"]
    assert (rows.grid[0], tuple(rows.text_tokens[0]), rows.model[0], rows.heads[0]) == (
        "2x2x3",
        (9, 0),
        "minimax-h3",
        1,
    )


def test_frames_that_a_model_cannot_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="frames 6 must be of the form"):
        attnbench.run("full", model="minimax-h3", height=64, width=96, frames=6, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()
