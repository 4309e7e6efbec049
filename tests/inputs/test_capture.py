from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.errors import BadInput

SHAPE = resolve_shape(grid="2x3x4", heads=4, kv_heads=2, head_dim=8)


def tensors(**changes: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {n: torch.randn(1, h, 24, 8, generator=generator) for n, h in (("q", 4), ("k", 2), ("v", 2))}
    return made | changes


def load(path: Path, *, heads: int = 4, dtype: torch.dtype = torch.float32) -> Any:
    return make_inputs(f"capture:{path}", SHAPE, heads=heads, dtype=dtype, device=torch.device("cpu"), seed=0)


def saved(tmp_path: Path, content: dict[str, Tensor]) -> Path:
    path = tmp_path / "made.safetensors"
    save_file(content, path)
    return path


def test_tensors_come_back_as_saved(tmp_path: Path) -> None:
    content = tensors()
    inputs = load(saved(tmp_path, content))
    assert all(torch.equal(getattr(inputs, name), content[name]) for name in "qkv")


def test_fewer_heads_are_the_first_ones(tmp_path: Path) -> None:
    content = tensors()
    inputs = load(saved(tmp_path, content), heads=2, dtype=torch.bfloat16)
    assert torch.equal(inputs.q, content["q"][:, :2].bfloat16())
    assert torch.equal(inputs.v, content["v"][:, :1].bfloat16())


def test_the_hash_sees_one_changed_number(tmp_path: Path) -> None:
    content = tensors()
    first = load(saved(tmp_path, content)).hash
    content["v"][0, 1, 23, 7] += 1
    assert load(saved(tmp_path, content)).hash != first


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_nan_and_inf_are_refused(tmp_path: Path, name: str, bad: float) -> None:
    content = tensors()
    content[name][0, 1, 5, 3] = bad
    with pytest.raises(BadInput, match=rf"made\.safetensors': {name} holds 1 NaN or Inf"):
        load(saved(tmp_path, content))


def test_a_value_beyond_the_dtype_is_refused(tmp_path: Path) -> None:
    content = tensors()
    content["q"][0, 0, 0, 0] = 1e6
    path = saved(tmp_path, content)
    assert torch.isfinite(load(path, dtype=torch.bfloat16).q).all()
    with pytest.raises(BadInput, match=r"q holds 1 NaN or Inf values as torch\.float16"):
        load(path, dtype=torch.float16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": torch.zeros(1, 4, 23, 8)}, r"q is \(1, 4, 23, 8\).*needs \(1, 4, 24, 8\)"),
        ({"q": torch.zeros(1, 3, 24, 8)}, r"q is \(1, 3, 24, 8\)"),
        ({"k": torch.zeros(1, 4, 24, 8)}, r"k is \(1, 4, 24, 8\).*needs \(1, 2, 24, 8\)"),
        ({"v": torch.zeros(2, 2, 24, 8)}, r"v is \(2, 2, 24, 8\)"),
        ({"v": torch.zeros(1, 2, 24, 4)}, r"v is \(1, 2, 24, 4\)"),
        ({"k": torch.zeros(24, 8)}, r"k is \(24, 8\)"),
        ({"k": torch.zeros(1, 2, 24, 8, dtype=torch.int32)}, "k is torch.int32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Tensor], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load(saved(tmp_path, tensors(**changes)))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no tensor k and no tensor v: it holds q, query,"):
        load(saved(tmp_path, {"q": torch.zeros(1, 4, 24, 8), "query": torch.zeros(1)}))


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path, tensors())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadInput, match=r"made\.safetensors' cannot be read"):
        load(path)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.safetensors", tmp_path / "trace"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (trace,))

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(BadInput, match=r"evil\.safetensors' cannot be read"):
        load(path)
    assert not trace.exists()
