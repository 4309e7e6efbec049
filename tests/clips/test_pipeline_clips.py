"""Clips of a pipeline of diffusers with random weights, by the same command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench.clips import session
from attnbench.clips.pipeline import PipelineMaker
from attnbench.clips.request import ClipsRequest, Shot, read_request
from attnbench.kernels.errors import BadInput
from attnbench.results.load import load_clips

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

Ask = Callable[..., ClipsRequest]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from attnbench.models.random_pipeline import write_random

    return write_random("wan", tmp_path_factory.mktemp("models") / "wan")


@pytest.fixture
def ask_wan(wan: Path) -> Ask:
    def make(**changes: Any) -> ClipsRequest:
        fields: dict[str, Any] = {
            "model": "wan", "weights": str(wan), "prompts": ["a cat"], "frames": 5, "height": 32, "width": 48,
            "steps": 2, "seeds": 1, "metrics": ["psnr"], "device": "cpu",
            "methods": {"sta": {"tile": [1, 1, 2], "window": [1, 1, 1]}},
        }  # fmt: skip
        return read_request(**fields | changes)

    return make


def test_a_run_of_wan_compares_with_the_models_own_attention(ask_wan: Ask, tmp_path: Path, quiet: Any) -> None:
    outcome = session.start(ask_wan(dense_steps=0, dense_layers=[1]), tmp_path / "run", quiet)
    assert outcome.failed == ()
    assert {(row.role, row.reference) for row in outcome.rows} == {
        ("kernel-floor", "full/own, seed 0"), ("method", "full/own, seed 0"), ("seed-floor", "full/own, seed 0"),
    }  # fmt: skip
    values = {row.role: row.value for row in outcome.rows}
    assert values["seed-floor"] < values["method"] < values["kernel-floor"]
    (clip,) = (clip for _, clip in load_clips(tmp_path / "run") if clip.role == "method")
    assert (clip.frames, clip.size, clip.fps, clip.settings) == (5, "32x48", 16, '{"tile":[1,1,2],"window":[1,1,1]}')
    assert [density is None for density in clip.densities] == [layer == 1 for layer in range(len(clip.densities))]


def test_full_attention_through_the_patch_is_the_models_own(ask_wan: Ask) -> None:
    maker = PipelineMaker(ask_wan(frames=1))
    exact = maker.make(Shot("a cat", 0, "exact"), lambda step: None)
    same = maker.make(Shot("a cat", 0, "method", engine="sdpa"), lambda step: None)
    assert exact.clip.length == 1
    assert exact.clip.digest == same.clip.digest
    assert (same.engine, exact.engine) == ("sdpa", "own")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"height": 33}, "33"),
        ({"frames": 6}, "6"),
        ({"steps": 0}, "steps 0"),
        ({"dense_layers": [9]}, "dense layer 9"),
        ({"weights": None}, "needs its weights"),
    ],
)
def test_what_the_model_cannot_make_is_refused_before_anything_is_written(
    changes: dict[str, Any], said: str, ask_wan: Ask, tmp_path: Path, quiet: Any
) -> None:
    with pytest.raises(BadInput, match=said):
        session.start(ask_wan(**changes), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()
