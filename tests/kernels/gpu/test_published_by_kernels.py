"""Recorded selections of block methods, with every step of the selection run by kernels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import attnbench
from attnbench.kernels import witness
from attnbench.kernels.selection_ops import interpreted

FOLDER = Path(__file__).resolve().parents[2] / "golden" / "published"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("method", "file", "kernel"),
    [
        ("sparge", "sparge_0.npz", "triton:pool_units"),
        pytest.param("xattention", "xattention_2.npz", "triton:group_scores", marks=pytest.mark.slow),
        ("draft", "draft_2.npz", "triton:count_digit"),
        ("rainfusion2", "rainfusion2_3.npz", "triton:top_k_rows"),
        ("sla", "sla_0.npz", "triton:top_k_rows"),
    ],
)
def test_selections(method: str, file: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = json.loads((FOLDER / f"{method}.json").read_text("utf-8"))
    case = next(each for each in cases if each["file"] == file)
    with np.load(FOLDER / file, allow_pickle=False) as arrays:
        q, k = (torch.from_numpy(arrays[name])[None].to(DEVICE).float() / 64 for name in "qk")
        keep = torch.from_numpy(arrays["keep"])
    with interpreted(), witness.watching() as seen:
        plan = attnbench.select(q, k, method=method, grid=tuple(case["grid"]), **case["settings"])
    assert torch.equal(plan.pattern.keep[0].cpu(), keep)
    assert kernel in seen.kernels
