"""Clips with replaced attention: what is replaced and where, rank correlations, and runs that make such clips."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attnbench.analysis import perturb as module
from attnbench.analysis.perturb import perturb, spearman
from attnbench.analysis.perturbation import AT_ONCE
from attnbench.analysis.request import read_request
from attnbench.analysis.session import Outcome, start
from attnbench.analysis.swaps import MAPS, Swap, swapped, swaps_of
from attnbench.clips.metrics.frames import Clip
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid
from attnbench.methods.entries import Entry
from attnbench.mini.config import PRESETS
from attnbench.mini.model import FULL, MiniTransformer
from attnbench.mini.stored import save_mini
from attnbench.models.capture.models import MiniSource
from attnbench.models.capture.request import CaptureRequest
from attnbench.results.run import NoProgress

GRID = Grid(2, 2, 3)
PROMPT = "3 moving north-east"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MiniTransformer(PRESETS["tiny"])
        for parameter in network.parameters():
            if not parameter.any():  # a fresh model says zero whatever its attention does
                torch.nn.init.normal_(parameter, std=0.2)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_mini(network, network.state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes long and is tested by itself."""
    monkeypatch.setattr(module, "METRICS", module.METRICS[:2])


@pytest.fixture
def go(weights: Path, tmp_path: Path) -> Callable[..., Outcome]:
    def run(**changes: Any) -> Outcome:
        fields: dict[str, Any] = {"weights": str(weights), "sampler_steps": 2, "device": "cpu", "perturb": True}
        return start(read_request(**fields | changes), tmp_path / "run", NoProgress())

    return run


def test_the_replacements_are_attention_with_those_maps() -> None:
    v = torch.randn(2, 3, 12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n = v.shape[2]
    for name, weights in (("identity", torch.eye(n)), ("uniform", torch.full((n, n), 1 / n))):
        assert torch.allclose(MAPS[name](v), weights.double() @ v)


@pytest.mark.parametrize("name", list(MAPS))
def test_only_what_was_asked_for_is_replaced(name: str) -> None:
    q, k, v = torch.randn(3, 1, 2, 12, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    for swap, replaced in (
        (Swap(name), {(0, 0), (0, 1), (1, 0), (1, 1)}),
        (Swap(name, 1), {(1, 0), (1, 1)}),
        (Swap(name, 1, 0), {(1, 0)}),
        (Swap(name, None, 1), {(0, 1), (1, 1)}),
    ):
        attend = swapped([swap], FULL)
        for layer in range(2):
            for step in range(2):
                found = attend(q, k, v, grid=GRID, layer=layer, step=step)
                full = FULL(q, k, v, grid=GRID, layer=layer, step=step)
                wanted = MAPS[name](v) if (layer, step) in replaced else full
                assert torch.equal(found, wanted), (swap, layer, step)


def test_clips_made_together_are_those_made_alone(weights: Path) -> None:
    source = MiniSource(
        CaptureRequest("mini", PROMPT, (0,), (0,), weights=weights, sampler_steps=2, device="cpu", dtype="float32")
    )
    swaps = [Swap(name, *place) for name in MAPS for place in ((), (0,), (1,), (0, 1), (1, 0), (None, 1))]
    random.Random(0).shuffle(swaps)
    together = source.make(swapped(swaps, FULL), clips=len(swaps))
    for swap, clip in zip(swaps, together, strict=True):
        torch.testing.assert_close(clip, _alone(source, swap), atol=1e-5, rtol=0)
    apart = torch.pdist(together.flatten(1))
    assert apart.min() > 0.01, "no two replacements give the same clip"


def _alone(source: MiniSource, swap: Swap) -> Tensor:
    """Return the clip of one replacement, by a self-attention that knows of no batches."""

    def attend(q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, layer: int, step: int | None) -> Tensor:
        if swap.layer in (None, layer) and swap.step in (None, step):
            return v if swap.name == "identity" else v.mean(2, keepdim=True).repeat(1, 1, v.shape[2], 1)
        return functional.scaled_dot_product_attention(q, k, v)

    return source.make(attend)[0]


def test_all_layers_single_layers_and_single_cells_are_replaced() -> None:
    swaps = swaps_of((0, 2), (1,))
    assert [swap.words for swap in swaps[:5]] == [
        "identity in all layers", "identity in layer 0", "identity in layer 2", "identity in layer 0, step 1",
        "identity in layer 2, step 1",
    ]  # fmt: skip
    assert [swap.name for swap in swaps[5:]] == ["uniform"] * 5


@pytest.mark.parametrize("ties", [False, True])
def test_the_rank_correlation_is_that_of_ranks(ties: bool) -> None:
    generator = random.Random(0)
    a = [generator.randint(0, 5) if ties else generator.random() for _ in range(20)]
    b = [x + 2 * generator.random() for x in a]
    wanted = pd.Series(a).rank().corr(pd.Series(b).rank())
    found = spearman(a, b)
    assert found.value == pytest.approx(wanted, abs=1e-12)
    assert found.lo < found.value < found.hi


def test_the_interval_holds_the_correlation_of_the_population_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    r, runs = 0.6, 500
    truth = 6 / torch.pi * torch.asin(torch.tensor(r / 2))  # of ranks of a normal pair
    held = 0
    for _ in range(runs):
        x, e = torch.randn(2, 25, generator=generator).unbind(0)
        found = spearman(x.tolist(), (r * x + (1 - r**2) ** 0.5 * e).tolist())
        held += found.lo <= float(truth) <= found.hi
    assert 0.92 <= held / runs <= 0.98


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_orders_correlate_fully_and_leave_room_for_doubt(sign: int) -> None:
    found = spearman([1, 2, 3, 4, 5, 6], [sign * x**3 for x in range(6)])
    assert found.value == pytest.approx(sign)
    inner = found.lo if sign > 0 else -found.hi
    assert 0.3 < inner < 0.99
    assert spearman([1, 1, 1, 1], [1, 2, 3, 4]).value == 0


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_what_a_layer_costs_goes_with_its_entropy_where_it_does(at_once: int) -> None:
    """Clips that differ by the number of the replaced layer, whose entropy is that number too."""

    def make(attend: Any, clips: int) -> list[Clip]:
        q = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(clips, 1, 1, 1)
        full = FULL(q, q, q, grid=Grid(2, 2, 2), layer=0, step=0)
        found = [attend(q, q, q, grid=Grid(2, 2, 2), layer=layer, step=0) for layer in range(5)]
        frames = torch.randint(0, 200, (4, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
        return [
            Clip(frames + 8 * sum(layer for layer in range(5) if not torch.equal(found[layer][item], full[item])))
            for item in range(clips)
        ]

    swaps, told = swaps_of(range(5), ()), []
    entropies = {(layer, 0): float(layer) for layer in range(5)}
    found = list(perturb(make, FULL, PROMPT, swaps, at_once, entropies, lambda *words: told.append(words)))
    assert [made for _, made, _ in told] == [0, *range(1, 13, at_once)]
    assert {of for *_, of in told} == {13}
    rows = {(each.measure, each.method, each.layer, each.step): each for each in found}
    for name in MAPS:
        psnr = [rows["perturbed_psnr", name, layer, None].value or 0.0 for layer in range(5)]
        assert psnr == sorted(psnr, reverse=True)
        assert psnr[0] == 100  # nothing differs
        assert psnr[2] == pytest.approx(20 * torch.log10(torch.tensor(255 / 16)).item(), abs=1e-3)
        assert rows["spearman_entropy_psnr", name, None, None].value == pytest.approx(-1)
        assert rows["spearman_entropy_psnr", name, None, 0].value == pytest.approx(-1)
    assert rows["clip_mini_class_accuracy", "", None, None].value in (0.0, 1.0)


def test_a_run_makes_the_clips_and_keeps_what_they_became(go: Callable[..., Outcome]) -> None:
    outcome = go(perturb_steps=[0, 1], queries=16)
    rows = {(row.measure, row.method, row.layer, row.step): row for row in outcome.rows}
    layers = PRESETS["tiny"].layers
    for name in MAPS:
        for layer in (None, *range(layers)):
            assert rows["perturbed_psnr", name, layer, None].value is not None
            assert rows["perturbed_mini_class_accuracy", name, layer, None].value in (0.0, 1.0)
        few = rows["spearman_entropy_psnr", name, None, None]
        assert (few.status, "3" in few.reason) == ("skipped", True)
        cells = rows["spearman_entropy_psnr_cells", name, None, None]
        assert cells.value is not None
        assert cells.lo is not None
        assert cells.lo < cells.value
    whole, part = (rows["perturbed_psnr", "uniform", layer, None].value or 0.0 for layer in (None, 0))
    assert whole < part  # more is replaced


def test_a_run_that_makes_clips_together_finds_the_same(go: Callable[..., Outcome], monkeypatch: Any) -> None:
    alone = go(perturb_steps=[1], queries=16)
    monkeypatch.setitem(AT_ONCE, "cpu", 4)
    shutil.rmtree(alone.folder)
    together = go(perturb_steps=[1], queries=16)
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert (one.measure, one.method, one.layer, one.step) == (other.measure, other.method, other.layer, other.step)
        assert one.value == pytest.approx(other.value, abs=1e-2)  # a level of 255 may round to the next


def test_several_prompts_are_averaged_with_an_interval(go: Callable[..., Outcome]) -> None:
    prompts = [PROMPT, "circle moving west", "7 moving south"]
    rows = [row for row in go(prompts=prompts, queries=16).rows if row.measure == "perturbed_psnr"]
    assert {row.prompts for row in rows} == {3}
    assert all(row.lo is not None and row.value is not None and row.lo <= row.value for row in rows)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inputs": "video", "grid": "2x4x4"}, "'video' cannot be perturbed"),
        ({"model": "wan"}, "'wan' cannot be perturbed"),
        ({"perturb": False, "perturb_steps": [1]}, "--perturb-steps 1 needs --perturb"),
        ({"methods": [Entry("sta", {"window": [1, 1, 1]})], "density": 0.2}, "--density sets it; leave it out"),
        ({"density": 0}, "density"),
        ({"perturb_steps": [2]}, "--perturb-steps 2 is not one of the 2 steps"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    changes: dict[str, Any], said: str, go: Callable[..., Outcome], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=said):
        go(**changes)
    assert not (tmp_path / "run").exists()
