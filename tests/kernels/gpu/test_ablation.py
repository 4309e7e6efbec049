"""Builds of the attention kernel with parts left out: what they still read, and that no caller sees them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from attnbench.kernels.ablation import Launch, is_recording, recorded
from attnbench.kernels.gpu.blocked import attend_blocks
from attnbench.kernels.gpu.hopper import is_hopper
from attnbench.kernels.gpu.routed import attend_routed
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern, RoutedPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal

SCALE = 0.125


def _tensors(device: torch.device, tokens: int, dim: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (torch.randn(1, 2, tokens, dim, generator=generator).to(device, dtype) for _ in range(3))
    return q, k, v


def _blocks(device: torch.device, tokens: int, *, rule: bool = False) -> Plan:
    offsets = torch.tensor([0, tokens // 2, tokens], device=device)
    keep = torch.tensor([[True, False], [True, True]], device=device)[None, None]
    return Plan(Layout(Grid(tokens, 1, 1)), 1, 2, BlockPattern(offsets, offsets, keep, causal() if rule else None))


def _routes(device: torch.device, tokens: int) -> Plan:
    offsets = torch.tensor([0, tokens // 2, tokens], device=device)
    keep = torch.rand(1, 2, tokens, 2, generator=torch.Generator().manual_seed(1)) < 0.7
    return Plan(Layout(Grid(tokens, 1, 1)), 1, 2, RoutedPattern(offsets, keep.to(device)))


def _used(launch: Launch) -> Tensor:
    """Return which places of a launch hold a query; what is written to the others is undefined."""
    assert isinstance(launch, partial)
    tiles = launch.args[3]
    places = torch.arange(len(tiles.queries), device=tiles.queries.device)
    return (places < tiles.count * tiles.rows) & (tiles.queries >= 0)


@pytest.mark.parametrize("rule", [False, True])
def test_the_build_without_values_has_the_softmax_of_the_whole(rule: bool, device: torch.device) -> None:
    plan, (q, k, v) = _blocks(device, 90, rule=rule), _tensors(device, 90)
    _, wanted = attend_blocks(q, k, v, plan, SCALE, hopper=False)
    with recorded() as launches:
        attend_blocks(q, k, torch.full_like(v, torch.nan), plan, SCALE, hopper=False)
    (launch,) = launches
    assert torch.equal(launch("softmax")[1], wanted)
    assert launch("whole")[0].isnan().all()


def test_the_build_of_scores_alone_reads_queries_and_keys_only(device: torch.device) -> None:
    q, k, v = _tensors(device, 16)
    offsets = torch.tensor([0, 16], device=device)
    keep = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
    plan = Plan(Layout(Grid(16, 1, 1)), 1, 2, BlockPattern(offsets, offsets, keep))
    with recorded() as launches:
        attend_blocks(q, k, torch.full_like(v, torch.nan), plan, SCALE, hopper=False)
    scores = q.double() @ k.double().transpose(2, 3) * SCALE
    assert torch.allclose(launches[0]("qk")[1].double(), scores.amax(3), rtol=1e-3, atol=1e-3)


def test_a_launch_that_was_noted_writes_to_outputs_of_its_own(device: torch.device) -> None:
    plan, (q, k, v) = _blocks(device, 90), _tensors(device, 90)
    with recorded() as launches:
        output, lse = attend_blocks(q, k, v, plan, SCALE, hopper=False)
    before = output.clone(), lse.clone()
    for part in ("qk", "softmax", "whole"):
        launches[0](part)
    assert torch.equal(output, before[0])
    assert torch.equal(lse, before[1])
    assert torch.equal(launches[0]("whole")[0], output)


def test_every_launch_of_a_routed_plan_is_noted(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    plan, (q, k, v) = _routes(device, 60), _tensors(device, 60)
    monkeypatch.setattr("attnbench.kernels.gpu.routed.most_partial", lambda device: 1)
    with recorded() as launches:
        attend_routed(q, k, v, plan, SCALE, hopper=False)
    assert len(launches) == 2  # a head at a time
    for launch in launches:
        real = _used(launch)
        assert real.any()
        assert torch.equal(launch("softmax")[1][real], launch("whole")[1][real])


def test_nothing_is_noted_outside() -> None:
    assert not is_recording()
    with recorded():
        assert is_recording()
    with pytest.raises(RuntimeError), recorded():
        raise RuntimeError
    assert not is_recording()


@pytest.mark.skipif(not is_hopper(torch.device("cuda" if torch.cuda.is_available() else "cpu")), reason="no Hopper GPU")
def test_the_gluon_builds_have_the_same_softmax(device: torch.device) -> None:
    plan, (q, k, v) = _routes(device, 3000), _tensors(device, 3000, 128)
    with recorded() as launches:
        attend_routed(q, k, v, plan, SCALE, hopper=True)
    real, whole = _used(launches[0]), launches[0]("whole")[1]
    assert torch.allclose(launches[0]("softmax")[1][real], whole[real], atol=1e-4)
    assert not torch.allclose(launches[0]("qk")[1][real], whole[real], atol=1e-1)
