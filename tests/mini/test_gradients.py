"""Gradients that are replayed, against the same ones computed call by call. Needs a GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from attnbench.mini.batch import make_batch
from attnbench.mini.config import TrainConfig
from attnbench.mini.gradients import WARM_UP
from attnbench.mini.steps import fresh_state, prepare, take_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")

SMALL = TrainConfig(
    model="tiny", method="vmoba", engine="triton", steps=14, batch=8, coarse=((6, 32),), held_out=8, warmup=2,
    dtype="bfloat16",
)  # fmt: skip


def trained(config: TrainConfig) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Return losses, the weights after all steps, and what was noted."""
    device, notes, losses = torch.device("cuda"), [], []
    state = fresh_state(config, device)
    _, gradients = prepare(state, config, device, notes.append)
    for step in range(config.steps):
        loss, _ = take_step(state, config, make_batch(config, step, device), gradients)
        losses.append(loss.cpu())
        state.step += 1
    return losses, [parameter.detach().cpu() for parameter in state.model.parameters()], notes


def test_a_replayed_run_is_the_run_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    replays = []
    replay = torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))[1])
    direct = trained(SMALL)
    assert not replays
    compiled = dataclasses.replace(SMALL, compile=True)
    losses, weights, notes = trained(compiled)
    assert notes == []
    assert len(replays) == SMALL.steps - 2 * WARM_UP
    assert len(set(map(id, replays))) == 2
    torch.testing.assert_close(losses, direct[0], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(weights, direct[1], rtol=0.1, atol=1e-2)
    assert len({float(loss) for loss in losses}) == SMALL.steps  # every batch was read


def test_what_cannot_be_captured_runs_call_by_call() -> None:
    config = dataclasses.replace(SMALL, engine="reference", compile=True, steps=8)
    losses, _, notes = trained(config)
    assert [note[:23] for note in notes] == ["steps run call by call,"]
    assert all(torch.isfinite(loss) for loss in losses)
