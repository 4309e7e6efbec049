"""Coarse stages with full attention: the same for every method, so that runs can share them."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.mini.coarse import taken_over
from attnbench.mini.config import TrainConfig
from attnbench.mini.stored import read_tensors, write_tensors
from attnbench.mini.train import resume, start
from attnbench.results.training import read_log

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


def test_the_card_names_who_ran_the_steps_that_were_taken(tmp_path: Path) -> None:
    start(dataclasses.replace(SPARSE, steps=5), tmp_path / "coarse", CPU, Silent())
    start(SPARSE, tmp_path / "whole", CPU, Silent())
    engines = [json.loads((tmp_path / name / "mini.json").read_text())["engine"] for name in ("coarse", "whole")]
    assert engines == ["sdpa", "reference"]


def test_a_run_that_takes_over_is_the_run_that_did_all_itself(source: Path, tmp_path: Path) -> None:
    start(SPARSE, tmp_path / "whole", CPU, Silent())
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "train.jsonl").write_text('{"step": 1, "loss": 1.0}\n')  # of a run that is not there
    begun = functools.partial(taken_over, source)
    start(SPARSE, tmp_path / "taken", CPU, Silent(), seconds=1e-6, first=begun)
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
        ({"seed": 1}, "other coarse stages than those asked for: seed 0 for 1"),
        ({"coarse": ((4, 4),)}, r"coarse \[\[5, 4\]\] for \[\[4, 4\]\]"),
        ({"coarse": ((6, 4),)}, r"coarse \[\[5, 4\]\] for \[\[6, 4\]\]"),
        ({"dense_coarse": False}, "add --dense-coarse"),
        ({"coarse": ()}, "add --dense-coarse"),
        ({"method": "vmoab"}, "vmoba"),
        ({"settings": {"block": 8}}, "block"),
        ({"engine": "trito"}, "triton"),
        ({"engine": "sdpa"}, "full attention only"),
    ],
)
def test_what_cannot_be_shared_is_refused(source: Path, tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    config = dataclasses.replace(SPARSE, **changed)
    with pytest.raises(AttnbenchError, match=said):
        start(config, tmp_path / "run", CPU, Silent(), first=functools.partial(taken_over, source))
    assert not (tmp_path / "run").exists()


def test_what_is_no_part_of_coarse_stages_may_differ(source: Path) -> None:
    changed = dataclasses.replace(SPARSE, batch=3, held_out=3, steps=50, checkpoint_every=9)
    assert taken_over(source, changed).step == 5


def test_an_engine_that_cannot_train_full_clips_is_told_before_the_coarse_ones(tmp_path: Path) -> None:
    with pytest.raises(AttnbenchError, match="full attention only"):
        start(dataclasses.replace(SPARSE, engine="sdpa"), tmp_path / "run", CPU, Counting())
    assert not (tmp_path / "run").exists()


class Counting(Silent):
    def step(self, *given: Any) -> None:
        raise AssertionError("a step was taken")


def test_a_run_that_is_not_at_their_end_is_refused(source: Path, tmp_path: Path) -> None:
    start(dataclasses.replace(COARSE, steps=6), tmp_path / "further", CPU, Silent())
    start(COARSE, tmp_path / "short", CPU, Silent(), seconds=1e-6)
    for name, step in (("further", 6), ("short", 1)):
        with pytest.raises(BadInput, match=f"{name}' is at step {step} and its coarse stages take 5"):
            taken_over(tmp_path / name, SPARSE)
    with pytest.raises(BadInput, match="holds no training run"):
        taken_over(tmp_path / "absent", SPARSE)


def test_settings_may_be_tuples(source: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(SPARSE, method="sta", settings={"tile": (2, 4, 4), "window": (1, 1, 1)}, steps=6)
    assert start(config, tmp_path, CPU, Silent(), first=functools.partial(taken_over, source)).finished


def test_a_run_whose_checkpoint_is_gone_keeps_its_log(source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    before = (tmp_path / "run" / "train.jsonl").read_bytes()
    with pytest.raises(BadInput, match="holds no checkpoint any more"):
        resume(tmp_path / "run", CPU, Silent())
    assert (tmp_path / "run" / "train.jsonl").read_bytes() == before


def test_a_checkpoint_of_before_is_gone_on_with(source: Path, tmp_path: Path) -> None:
    start(dataclasses.replace(SPARSE, dense_coarse=False), tmp_path / "run", CPU, Silent(), seconds=1e-6)
    path = tmp_path / "run" / "checkpoint.safetensors"
    tensors, about = read_tensors(path, "mini-checkpoint")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    for each in (config, about["config"]):
        del each["dense_coarse"]
    write_tensors(path, "mini-checkpoint", tensors, about)
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert resume(tmp_path / "run", CPU, Silent()).finished
