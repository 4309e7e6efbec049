"""Captures of a model that the caller runs: MiniMax-H3, whose tokens are packed with the video's last."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.methods import get_method
from attnbench.models.capture.driven import capturing
from attnbench.models.patch import patch
from tests.models.families.test_families import GRID, HEAD_DIM, HEADS, TEXT, minimax_h3, minimax_h3_inputs

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return minimax_h3().eval()


@torch.no_grad()
def run(model: Any, *times: float) -> Tensor:
    for time in times:
        output: Tensor = model(**minimax_h3_inputs(batch=1, timestep=time), return_dict=False)[0]
    return output


def test_what_is_kept_is_what_attention_sees_and_comes_back_as_inputs(model: Any, tmp_path: Path) -> None:
    path, seen = tmp_path / "q.safetensors", []
    with patch(model, _recording(seen), dense_layers=(0, 2)):
        run(model, 0.1, 0.4)
    with capturing(SimpleNamespace(transformer_ref=model), path, layers=(1,), steps=(1,)):
        run(model, 0.1, 0.4, 0.7)
        raise AssertionError("the block goes on although everything is collected")
    with safe_open(str(path), "pt") as file:
        assert file.metadata()["text"] == f"{TEXT},0"
        assert file.metadata()["model"] == "minimax-h3"
        assert torch.equal(file.get_tensor("q"), seen[1])
    shape = resolve_shape(grid="x".join(map(str, GRID)), heads=HEADS, head_dim=HEAD_DIM, text_tokens=f"{TEXT}+0")
    inputs = make_inputs(f"capture:{path}", shape, heads=HEADS, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    assert torch.equal(inputs.q, seen[1])


def test_the_video_alone_is_kept_where_asked(model: Any, tmp_path: Path) -> None:
    with capturing(model, tmp_path / "q.safetensors", layers=(0, 2), steps=(0,), video_only=True):
        run(model, 0.1, 0.4)
    with safe_open(str(tmp_path / "q.safetensors"), "pt") as file:
        assert sorted(file.keys())[0] == "layer0.step0.k"
        assert file.get_tensor("layer2.step0.v").shape == (1, HEADS, GRID[0] * GRID[1] * GRID[2], HEAD_DIM)


def test_what_cannot_be_captured_is_refused_and_leaves_no_file(model: Any, tmp_path: Path) -> None:
    before = [part.attn.processor for part in model.transformer_blocks]
    path = tmp_path / "q.safetensors"
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"layers": (3,), "steps": (0,)}, "layer 3 does not exist: this model has layers 0 to 2"),
        ({"layers": (), "steps": (0,)}, "layers is \\(\\); it must be whole numbers"),
        ({"layers": (0,), "steps": (-1,)}, "steps is \\(-1,\\)"),
        ({"layers": (0,), "steps": (9,)}, "without a call of layer0.step9"),
    )
    for given, why in refused:
        with pytest.raises(BadInput, match=why), capturing(model, path, **given):
            run(model, 0.1)
    with pytest.raises(ZeroDivisionError), capturing(model, path, layers=(0,), steps=(1,)):
        _run_and_fail(model)
    with (
        pytest.raises(Unsupported, match="a Linear cannot be patched"),
        capturing(torch.nn.Linear(1, 1), path, layers=(0,), steps=(0,)),
    ):
        pass
    assert not list(tmp_path.iterdir())
    assert [part.attn.processor for part in model.transformer_blocks] == before


def _run_and_fail(model: Any) -> None:
    run(model, 0.1)
    raise ZeroDivisionError


def _recording(seen: list[Tensor]) -> Any:
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Any) -> Any:
        seen.append(q.clone())
        return full.plan(settings, q, k, call)

    return dataclasses.replace(full, name="recording", plan=plan)
