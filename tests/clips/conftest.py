"""A mini model of 128 tokens with random weights: its clips are noise, and everything else is as with the real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.clips.request import ClipsRequest, read_request
from attnbench.mini.config import PRESETS
from attnbench.mini.model import MiniTransformer
from attnbench.mini.stored import save_mini

Ask = Callable[..., ClipsRequest]

SPARSE: dict[str, dict[str, Any]] = {"sta": {"tile": [1, 4, 4], "window": [1, 1, 1]}}
"""A method that leaves much out of 2x8x8 tokens."""


class Quiet:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float, float]] = []
        self.notes: list[str] = []
        self.folder: str | None = None

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        self.steps.append((label, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def started(self, folder: str) -> None:
        self.folder = folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def write_weights(path: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MiniTransformer(PRESETS["tiny"])
        for parameter in network.parameters():
            if not parameter.any():  # a fresh model says zero whatever its attention does
                torch.nn.init.normal_(parameter, std=0.2)
    save_mini(network, network.state_dict(), path)
    return path


@pytest.fixture
def other_weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "other.safetensors", seed=1)


@pytest.fixture
def ask(weights: Path) -> Ask:
    """Make a request of two seeds, four steps and one method, by the quick metrics."""

    def make(**changes: Any) -> ClipsRequest:
        fields: dict[str, Any] = {
            "methods": SPARSE, "weights": str(weights), "steps": 4, "device": "cpu", "metrics": ["psnr", "ssim"],
        }  # fmt: skip
        return read_request(**fields | changes)

    return make


@pytest.fixture
def quiet() -> Quiet:
    return Quiet()
