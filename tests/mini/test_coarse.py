"""Coarse stages with full attention: the same for every method, so that runs can share them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.mini.coarse import take_over
from attnbench.mini.config import TrainConfig
from attnbench.mini.log import read_log
from attnbench.mini.train import resume, start
from attnbench.mini.weights import read_tensors

CPU = torch.device("cpu")
SPARSE = TrainConfig(
    model="tiny", method="moba", settings={"blocks": 8, "topk": 2}, steps=7, batch=2, coarse=((5, 4),),
    dense_coarse=True, held_out=2, checkpoint_every=3, warmup=2, dtype="float32",
)  # fmt: skip
COARSE = dataclasses.replace(SPARSE, method="full", settings={}, steps=5, checkpoint_every=2)


class Silent:
    def step(self, *given: Any) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def weights(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "checkpoint.safetensors", "mini-checkpoint")[0]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder) if "loss" in line]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coarse") / "full"
    start(COARSE, folder, CPU, Silent())
    return folder


def test_a_run_that_takes_over_is_the_run_that_did_all_itself(source: Path, tmp_path: Path) -> None:
    start(SPARSE, tmp_path / "whole", CPU, Silent())
    take_over(source, SPARSE, tmp_path / "taken")
    done = resume(tmp_path / "taken", CPU, Silent())
    assert (done.step, done.finished) == (7, True)
    assert losses(tmp_path / "taken") == losses(tmp_path / "whole")[5:]
    whole, taken = weights(tmp_path / "whole"), weights(tmp_path / "taken")
    assert whole.keys() == taken.keys()
    assert all(torch.equal(whole[name], taken[name]) for name in whole)
    assert json.loads((tmp_path / "taken" / "mini.json").read_text())["steps"] == 7


def test_without_it_coarse_clips_take_the_method_too(source: Path, tmp_path: Path) -> None:
    start(dataclasses.replace(SPARSE, dense_coarse=False), tmp_path / "own", CPU, Silent())
    assert losses(tmp_path / "own")[:5] != losses(source)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "other coarse stages than are asked for: seed 0 for 1"),
        ({"coarse": ((4, 4),)}, r"coarse \[\[5, 4\]\] for \[\[4, 4\]\]"),
        ({"dense_coarse": False}, "ask for --dense-coarse"),
        ({"coarse": ()}, "ask for --dense-coarse"),
        ({"method": "vmoab"}, "vmoba"),
        ({"settings": {"block": 8}}, "block"),
        ({"engine": "trito"}, "triton"),
    ],
)
def test_what_cannot_be_shared_is_refused(source: Path, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        take_over(source, dataclasses.replace(SPARSE, **changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_not_at_their_end_is_refused(source: Path, tmp_path: Path) -> None:
    start(dataclasses.replace(COARSE, steps=6), tmp_path / "further", CPU, Silent())
    start(COARSE, tmp_path / "short", CPU, Silent(), seconds=1e-6)
    for name, step in (("further", 6), ("short", 1)):
        with pytest.raises(BadInput, match=f"{name}' is at step {step} and its coarse stages take 5"):
            take_over(tmp_path / name, SPARSE, tmp_path / "run")
    with pytest.raises(BadInput, match="holds no training run"):
        take_over(tmp_path / "absent", SPARSE, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadInput, match="holds a training run already"):
        take_over(source, SPARSE, tmp_path / "short")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write"):
        take_over(source, SPARSE, tmp_path / "file" / "run")
