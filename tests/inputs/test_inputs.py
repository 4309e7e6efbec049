from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from attnbench.inputs.make import Inputs, make_inputs
from attnbench.inputs.shapes import Shape, resolve_shape
from attnbench.inputs.spec import INPUT_SOURCES, check_inputs_spec
from attnbench.kernels.errors import BadInput

MakeVideo = Callable[..., Path]
CPU = torch.device("cpu")
SHAPE = resolve_shape(grid="3x4x5", heads=6, head_dim=16)
GROUPED = resolve_shape(grid="3x4x5", heads=6, kv_heads=2, head_dim=16)


def make(spec: str, shape: Shape = SHAPE, heads: int = 6, dtype: torch.dtype = torch.float32, seed: int = 0) -> Inputs:
    return make_inputs(spec, shape, heads=heads, dtype=dtype, device=CPU, seed=seed)


@pytest.mark.parametrize("spec", ["video", "gaussian"])
@pytest.mark.parametrize("shape", [SHAPE, GROUPED])
def test_a_head_is_the_same_however_many_are_made(spec: str, shape: Shape) -> None:
    whole, one, three = make(spec, shape), make(spec, shape, heads=1), make(spec, shape, heads=3)
    for part, heads in ((one, 1), (three, 3)):
        assert torch.equal(part.q, whole.q[:, :heads])
        assert torch.equal(part.k, whole.k[:, : part.k.shape[1]])
        assert torch.equal(part.v, whole.v[:, : part.v.shape[1]])
    assert whole.k.shape == whole.v.shape == (1, shape.kv_heads, 60, 16)


@pytest.mark.parametrize("spec", ["video", "gaussian"])
def test_the_seed_alone_decides(spec: str) -> None:
    first, again, other = make(spec), make(spec), make(spec, seed=1)
    assert first.hash == again.hash != other.hash
    assert torch.equal(first.q, again.q)
    assert not torch.equal(first.q, other.q)


@pytest.mark.parametrize("spec", ["video", "gaussian"])
def test_batch_items_and_heads_differ(spec: str) -> None:
    q = make(spec, resolve_shape(grid="3x4x5", heads=2, head_dim=16, batch=2), heads=2).q.flatten(0, 1)
    for i in range(4):
        for j in range(i):
            assert (q[i] - q[j]).abs().mean() > 0.1


def test_the_hash_is_of_the_bytes_after_the_cast() -> None:
    inputs = make("gaussian", heads=2, dtype=torch.bfloat16)
    digest = hashlib.sha256()
    for name in "qkv":
        digest.update(f"{name} torch.bfloat16 (1, 2, 60, 16)\n".encode())
        digest.update(getattr(inputs, name).view(torch.int16).numpy().tobytes())
    assert inputs.hash == digest.hexdigest()[:16]
    assert inputs.hash != make("gaussian", heads=2).hash


def test_gaussian_inputs_are_standard_normal_and_independent() -> None:
    inputs = make("gaussian", resolve_shape(grid="4x20x20", heads=2, head_dim=32), heads=2)
    parts = torch.cat([inputs.q, inputs.k, inputs.v], dim=1)[0].flatten(1).double()
    torch.testing.assert_close(parts.mean(dim=1), torch.zeros(6).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(parts), torch.eye(6).double(), atol=0.03, rtol=0)
    torch.testing.assert_close(parts.var(dim=1), torch.ones(6).double(), atol=0.03, rtol=0)
    assert (parts.abs() > 3).double().mean() == pytest.approx(0.0027, rel=0.2)


def test_video_reads_the_file_it_is_given(noise_video: MakeVideo) -> None:
    ours, bundled = make(f"video:{noise_video(9)}"), make("video")
    assert ours.hash != bundled.hash


@pytest.mark.parametrize(
    ("heads", "words"), [(0, "heads 0 must be from 1 to 6"), (7, "heads 7 must be from 1 to 6"), (4, "a multiple of 3")]
)
def test_heads_that_cannot_be_made_are_refused(heads: int, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make("gaussian", GROUPED, heads=heads)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gausian", "unknown inputs 'gausian': did you mean 'gaussian'"),
        ("Video", "unknown inputs 'Video'"),
        ("", "unknown inputs ''"),
        ("gaussian:3", "'gaussian:3': gaussian reads no file"),
        ("capture", r"'capture' names no file: write capture:FILE\.safetensors"),
        ("video:", "'video:' names no file"),
        ("video:absent.mp4", r"'absent\.mp4' does not exist"),
        ("capture:.", "'.' is not a file"),
    ],
)
def test_a_bad_spec_is_quoted(spec: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (check_inputs_spec, make):
        with pytest.raises(BadInput, match=words):
            read(spec)


def test_a_path_may_hold_colons_and_a_tilde(noise_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    path = noise_video(9, "take:2.mkv")
    monkeypatch.chdir(path.parent)
    monkeypatch.setitem(os.environ, "HOME", str(path.parent))
    assert make("video:take:2.mkv").hash == make("video:~/take:2.mkv").hash


def test_each_source_has_a_line_that_says_how_to_write_it() -> None:
    assert all(line.startswith(name) and "\n" not in line for name, line in INPUT_SOURCES.items())
