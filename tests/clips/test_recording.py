"""What a recorded method tells of its plans, also where a plan is remembered."""

from __future__ import annotations

import pytest
import torch

import attnbench
from attnbench.clips.recording import Recording
from attnbench.methods import get_method


@pytest.mark.parametrize("name", ["sta", "vmoba"])
def test_every_call_is_recorded_also_where_the_plan_is_made_once(name: str) -> None:
    recording = Recording(get_method(name), "auto")
    q, k, v = torch.randn(3, 1, 2, 24, 8, generator=torch.Generator().manual_seed(0))
    where = {"method": recording.method, "grid": (2, 3, 4)}
    assert (recording.settings, recording.engines) == (None, "")
    for layer in (0, 0, 2):
        attnbench.attention(q, k, v, layer=layer, **where)
    expected = [attnbench.select(q, k, method=name, grid=(2, 3, 4), layer=layer).density for layer in (0, 2)]
    assert recording.densities(3) == [pytest.approx(expected[0]), None, pytest.approx(expected[1])]
    assert len(recording._densities[0]) == 2
    assert recording.engines == "reference"
    assert recording.settings is not None
