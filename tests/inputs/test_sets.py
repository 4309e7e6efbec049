"""Input sets: several of one kind, and what becomes of them where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from attnbench.inputs.make import Inputs, make_inputs
from attnbench.inputs.seeds import SETS
from attnbench.inputs.sets import InputSets, Lender
from attnbench.inputs.shapes import resolve_shape

SHAPE = resolve_shape(grid="3x2x4", heads=4, kv_heads=2, head_dim=12)
MakeVideo = Callable[..., Path]


def make(spec: str, number: int) -> Inputs:
    return make_inputs(
        spec, SHAPE, heads=4, dtype=torch.float32, device=torch.device("cpu"), seed=0, number=number
    )  # fmt: skip


def sets(spec: str) -> list[Inputs]:
    return [make(spec, number) for number in range(SETS)]


@pytest.mark.parametrize("spec", ["gaussian", "video"])
def test_sets_differ_and_each_is_the_same_every_time(spec: str) -> None:
    made = sets(spec)
    assert len({each.hash for each in made}) == SETS
    assert [each.hash for each in sets(spec)] == [each.hash for each in made]


def getting_brighter(count: int, step: int) -> NDArray[np.uint8]:
    """Frames of noise, each brighter by ``step`` than the one before; nine of them make three token frames."""
    noise = np.random.default_rng(0).integers(0, 60, (count, 4, 5, 3)).repeat(16, axis=1).repeat(16, axis=2)
    return (noise + step * np.arange(count)[:, None, None, None]).astype(np.uint8)


def test_sets_of_a_long_video_are_windows_of_it_as_far_apart_as_it_allows(make_video: MakeVideo) -> None:
    frames = getting_brighter(41, 3)
    made = sets(f"video:{make_video(frames)}")
    assert len({each.hash for each in made}) == SETS
    for start, each in zip((0, 16, 32), made, strict=True):
        alone = make_video(frames[start : start + 9], f"from-{start}.mkv")
        assert torch.equal(make(f"video:{alone}", 0).v, each.v)


def test_sets_of_a_short_video_differ_too(make_video: MakeVideo) -> None:
    assert len({each.hash for each in sets(f"video:{make_video(getting_brighter(9, 0))}")}) == SETS


def scores(inputs: Inputs) -> Tensor:
    group = inputs.q.shape[1] // inputs.k.shape[1]
    return inputs.q.double() @ inputs.k.double().repeat_interleave(group, 1).transpose(-1, -2)


def captured(*parts: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"{part}{name}": torch.randn(1, heads, SHAPE.tokens, SHAPE.head_dim, generator=generator)
        for part in parts
        for name, heads in (("q", 4), ("k", 2), ("v", 2))
    }


def test_a_capture_without_other_steps_is_rotated_and_its_scores_stay(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_file(captured(""), path)
    first, *others = sets(f"capture:{path}")
    for other in others:
        for mine, theirs in ((first.q, other.q), (first.k, other.k)):
            assert not torch.allclose(mine, theirs, atol=0.1)
        assert torch.equal(first.v, other.v)
        torch.testing.assert_close(scores(other), scores(first), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(others[0].q, others[1].q, atol=0.1)


def test_sets_of_a_capture_are_its_other_steps_of_the_layer_and_then_rotations(tmp_path: Path) -> None:
    path = tmp_path / "steps.safetensors"
    content = captured("layer0.step5.", "layer0.step25.", "layer1.step5.")
    save_file(content, path)
    first, second, third = sets(f"capture:{path}@layer0.step5")
    assert torch.equal(first.q, content["layer0.step5.q"])
    assert torch.equal(second.q, content["layer0.step25.q"])
    torch.testing.assert_close(scores(third), scores(first), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(third.q, first.q, atol=0.1)


@pytest.mark.parametrize(("fit", "again"), [(0, [1, 2, 1]), (100, [])])
def test_sets_that_do_not_fit_are_made_again(fit: int, again: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    first = make("gaussian", 0)
    numbers = {"SC_PAGE_SIZE": 1, "SC_AVPHYS_PAGES": fit * sum(x.nbytes for x in (first.q, first.k, first.v))}
    monkeypatch.setattr("attnbench.inputs.sets.os", SimpleNamespace(sysconf=numbers.__getitem__))
    made: list[int] = []

    def counted(number: int) -> Inputs:
        made.append(number)
        return make("gaussian", number)

    found = InputSets(counted)
    for number in (2, 1, 2, 0, 1):
        assert found[number].hash == make("gaussian", number).hash
    assert made == [0, 1, 2, *again], "the first set stays, and so does the latest other one"
    whole = found.hash
    monkeypatch.undo()
    assert InputSets(counted).hash == whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lent_copies_have_the_scores_of_their_set_to_the_last_bit_and_nothing_else_of_it(dtype: torch.dtype) -> None:
    made = make("gaussian", 0)
    inputs = Inputs(*(x.to(dtype) for x in (made.q, made.k, made.v)), made.hash)
    lender = Lender()

    def scores(q: Tensor, k: Tensor) -> Tensor:
        return q.float() @ k.float().repeat_interleave(2, 1).transpose(-1, -2)

    loans = [lender.lend(inputs, disguise="scales") for _ in range(4)]
    for loan in loans:
        assert torch.equal(scores(loan.q, loan.k), scores(inputs.q, inputs.k))
        assert torch.equal(loan.upright(loan.v), inputs.v)
        assert loan.problem == ""
        for mine, theirs in ((loan.q, inputs.q), (loan.k, inputs.k), (loan.v, inputs.v)):
            assert not torch.equal(mine, theirs)
            assert torch.equal(mine.abs(), theirs.abs()) == (dtype == torch.float16)
        loan.q[0, 0, 0, 0] += 1
        assert loan.problem == "the call writes into q, which it only borrows"
    scored = lender.lend(inputs, disguise="scores")
    assert torch.equal(scores(scored.q, scored.k), scores(inputs.q, inputs.k))
    assert torch.equal(scored.q.abs(), inputs.q.abs()) == (dtype == torch.float16)
    assert torch.equal(scored.v.abs(), inputs.v.abs())
    assert not torch.equal(scored.v, inputs.v)
    signed = lender.lend(inputs, disguise="signs")
    assert torch.equal(signed.q.abs(), inputs.q.abs())
    assert not torch.equal(signed.q, inputs.q)
    assert torch.equal(lender.lend(inputs, disguise="none").q, inputs.q)
