"""Training: it learns, it stops and continues with the same bits, and it never loses a checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.machine.clock import Clock
from attnbench.mini import train
from attnbench.mini.batch import make_batch
from attnbench.mini.checkpoint import CHECKPOINT, State
from attnbench.mini.config import PRESETS, TrainConfig
from attnbench.mini.muon import Muon, orthogonal
from attnbench.mini.steps import fresh_state, rate_share
from attnbench.mini.stored import load_mini, read_card, read_tensors
from attnbench.mini.train import resume, start
from attnbench.mini.workers import Workers, joined
from attnbench.results.training import read_log

CPU = torch.device("cpu")
SMALL = TrainConfig(
    model="tiny", steps=8, batch=2, coarse=((3, 4),), held_out=2, checkpoint_every=3, warmup=2, dtype="float32"
)


class Silent:
    """Hears of the progress; ``interrupt`` sends Ctrl-C at a step."""

    def __init__(self, interrupt: int | None = None, by: int = signal.SIGINT) -> None:
        self.interrupt, self.by, self.notes = interrupt, by, list[str]()

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)
        if f"step {self.interrupt}:" in text:
            os.kill(os.getpid(), self.by)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / CHECKPOINT, "mini-checkpoint")[0]


def test_stopped_and_resumed_is_the_same_as_never_stopped(tmp_path: Path) -> None:
    whole = start(SMALL, tmp_path / "whole", CPU, Silent())
    pieces = start(SMALL, tmp_path / "pieces", CPU, Silent(), seconds=1e-6)
    assert pieces.step == 1
    for step, number in ((3, signal.SIGINT), (6, signal.SIGTERM)):
        before = signal.signal(number, signal.SIG_DFL)  # whoever runs tests in the background ignores some
        pieces = resume(tmp_path / "pieces", CPU, Silent(interrupt=step, by=number))
        signal.signal(number, before)
        assert (pieces.step, pieces.interrupted, pieces.signal) == (step, True, number)
    assert (tmp_path / "pieces" / CHECKPOINT).exists()
    pieces = resume(tmp_path / "pieces", CPU, Silent())
    assert pieces.finished
    assert whole.finished
    one, other = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "pieces")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[line["loss"] for line in read_log(tmp_path / f) if "loss" in line] for f in ("whole", "pieces")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


def test_a_first_step_that_compiles_is_not_taken_for_a_usual_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hand_clock: Callable[[list[float]], Clock]
) -> None:
    now, take_step = [0.0], train.take_step

    def slow_at_first(state: State, *given: Any) -> tuple[Tensor, Tensor]:
        now[0] += 1.0 if state.step else 30.0
        return take_step(state, *given)

    monkeypatch.setattr(train, "CLOCK", hand_clock(now))
    monkeypatch.setattr(train, "take_step", slow_at_first)
    done = start(dataclasses.replace(SMALL, steps=40), tmp_path / "run", CPU, Silent(), seconds=35.0)
    assert done.step == 6


def test_a_folder_that_is_deleted_meanwhile_is_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    class Deleting(Silent):
        def note(self, text: str) -> None:
            super().note(text)
            if text.startswith("step 3:"):
                shutil.rmtree(folder)

    progress = Deleting()
    assert start(SMALL, folder, CPU, progress).finished
    assert sum("was deleted while it was written" in note for note in progress.notes) == 1
    assert len([line for line in read_log(folder) if "loss" in line]) == 8
    assert resume(folder, CPU, Silent()).finished


def test_the_loss_falls(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, steps=66, coarse=((60, 32),), batch=8, held_out=24, checkpoint_every=65)
    start(config, tmp_path / "run", CPU, Silent())
    lines = read_log(tmp_path / "run")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[50:60]) < 0.75 * sum(losses[:10])
    held_out = [line for line in lines if "held_out" in line][-1]
    assert held_out["held_out_lo"] < held_out["held_out"] < held_out["held_out_hi"]
    assert held_out["held_out"] == pytest.approx(sum(held_out["held_out_losses"]) / 24)


def test_a_finished_run_leaves_weights_and_a_card(tmp_path: Path) -> None:
    start(SMALL, tmp_path / "run", CPU, Silent())
    model = load_mini(tmp_path / "run" / "mini.safetensors")
    assert model.config == PRESETS["tiny"]
    averaged = {name[4:]: x for name, x in tensors_of(tmp_path / "run").items() if name.startswith("ema.")}
    for name, parameter in model.state_dict().items():
        torch.testing.assert_close(parameter, averaged[name], atol=float(averaged[name].abs().max()) / 127, rtol=0)
    card = read_card(tmp_path / "run" / "mini.safetensors")
    assert card["steps"] == 8
    assert card["clips_seen"] == 3 * 4 + 5 * 2
    assert card["seed"] == 0
    assert "CC BY 4.0" in card["licence"]
    assert card["curve"][-1][0] == 8
    assert card["held_out"]
    assert card["engine"] == "sdpa"
    assert {"device", "packages", "git_commit", "command", "started_at"} <= card["environment"].keys()


def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_one_whole(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import torch
from attnbench.mini import weights
from attnbench.mini.config import TrainConfig
from attnbench.mini.train import start
class Quiet:
    def step(self, *given): pass
    def note(self, text): pass
sync = os.fsync
def dies(file):
    name = os.readlink(f"/proc/self/fd/{file}")
    if "checkpoint" in os.path.basename(name):
        dies.count += 1
        if dies.count == 2:
            os.truncate(name, os.path.getsize(name) // 2)
            os.kill(os.getpid(), 9)
    sync(file)
dies.count = 0
os.fsync = dies
config = TrainConfig(model="tiny", steps=8, batch=2, held_out=2, checkpoint_every=3, warmup=2, dtype="float32")
start(config, Path(sys.argv[1]), torch.device("cpu"), Quiet())
"""
    folder = tmp_path / "run"
    died = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=300)
    assert died.returncode == -9, died.stderr
    assert read_tensors(folder / CHECKPOINT, "mini-checkpoint")[1]["step"] == 3
    done = resume(folder, CPU, Silent())
    assert done.finished
    lines = [line["step"] for line in read_log(folder) if "loss" in line]
    assert lines == list(range(1, 9))


def test_the_batch_of_a_step_does_not_depend_on_what_was_drawn_before() -> None:
    one, again, next_one = (make_batch(SMALL, step, CPU) for step in (4, 4, 5))
    assert torch.equal(one.video, again.video)
    assert torch.equal(one.noise, again.noise)
    assert not torch.equal(one.noise, next_one.noise)


def test_stages_go_from_small_clips_to_full_ones() -> None:
    config = dataclasses.replace(SMALL, model="mini", coarse=((2, 6), (1, 3)))
    shapes = [tuple(make_batch(config, step, CPU).video.shape) for step in range(4)]
    assert shapes == [(6, 3, 4, 16, 16)] * 2 + [(3, 3, 8, 32, 32), (2, 3, 16, 64, 64)]


def test_small_clips_hide_as_much_behind_noise_as_full_ones() -> None:
    """The mean of 8 noisy pixels is as noisy, beside the clip, as one pixel of the smaller clip at its own time."""
    config = dataclasses.replace(SMALL, coarse=((1, 400),), batch=400, steps=2)
    small, full = (make_batch(config, step, CPU).t.double() for step in (0, 1))
    odds = [(t / (1 - t)).log().mean().exp() for t in (small, full)]
    assert odds[1] / odds[0] == pytest.approx(8**0.5, rel=0.03)


def test_the_rate_rises_stays_and_falls() -> None:
    config = dataclasses.replace(SMALL, steps=100, warmup=10, coarse=((40, 2),))
    shares = [rate_share(config, step) for step in range(100)]
    assert shares[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert shares[10:41] == pytest.approx([1] * 31)
    assert shares[70] == pytest.approx(0.505, abs=0.01)
    assert shares[99] < 0.02


def test_weights_at_the_start_depend_on_the_seed_and_on_nothing_else() -> None:
    first = fresh_state(SMALL, CPU).model.state_dict()
    torch.manual_seed(99)
    again = fresh_state(dataclasses.replace(SMALL, method="vmoba"), CPU).model.state_dict()
    other = fresh_state(dataclasses.replace(SMALL, seed=1), CPU).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed.weight"], other["embed.weight"])


def test_every_parameter_has_exactly_one_optimiser() -> None:
    state = fresh_state(SMALL, CPU)
    found = [p for optimiser in (state.muon, state.adam) for group in optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in found} == {id(p) for p in state.model.parameters()}
    assert len(found) == len(list(state.model.parameters()))


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 16), (1, 8, 40)])
def test_singular_values_go_near_one_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ orthogonal(matrices).double() @ right.mT
    values = inside.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.3
    assert values.max() < 1.3
    assert (inside - torch.diag_embed(values)).abs().max() < 1e-3


def test_muon_moves_queries_keys_and_values_each_for_itself() -> None:
    weight = torch.nn.Parameter(torch.zeros(24, 8))
    optimiser = Muon([weight], lr=1.0, weight_decay=0.0)
    gradient = torch.randn(24, 8)
    gradient[8:16] *= 1000
    weight.grad = gradient
    optimiser.step()
    sizes = [float(part.norm()) for part in weight.detach().chunk(3)]
    assert max(sizes) < 1.3 * min(sizes)
    assert float((weight.detach() * gradient).sum()) < 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "huge"}, "unknown preset 'huge'"),
        ({"steps": 0}, "steps is 0"),
        ({"lr": 2.0}, "lr is 2.0"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"coarse": ((9, 2),)}, "more than the 8 steps of the whole run"),
        ({"coarse": ((1, 2),) * 2}, "only 1 times"),
        ({"coarse": ((1, 0),)}, "pairs of steps and clips"),
    ],
)
def test_runs_that_cannot_be_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]  # wrong on purpose


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path: Path) -> None:
    start(SMALL, tmp_path, CPU, Silent(), seconds=1e-6)
    with pytest.raises(BadInput, match="holds a training run already"):
        start(SMALL, tmp_path, CPU, Silent())


def test_an_unknown_setting_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="tpok"):
        start(dataclasses.replace(SMALL, method="moba", settings={"tpok": 3}), tmp_path / "run", CPU, Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sol-attn", "ditfastattn"])
def test_a_method_without_a_gradient_is_refused_before_anything_is_written(method: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"^method '{method}' has no gradient, so no model can be trained with it$"):
        start(dataclasses.replace(SMALL, method=method), tmp_path / "run", CPU, Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, "{", '{"stepz": 3}', "[]"])
def test_a_folder_without_a_sound_run_cannot_be_resumed(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(BadInput):
        resume(tmp_path, CPU, Silent())


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    start(SMALL, tmp_path, CPU, Silent(), seconds=1e-6)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "batch": 3}))
    with pytest.raises(BadInput, match="a run with other settings"):
        resume(tmp_path, CPU, Silent())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda header: header["environment"]["packages"].update(torch="1.0"), "with torch 1.0 and this is torch"),
        (lambda header: header["environment"].update(git_changes="0" * 64), "uncommitted changes 0"),
        (lambda header: header["environment"].update(device="another"), "on 'another' and this is"),
        (lambda header: header["environment"].update(threads=64), "with threads 64 and this is threads 1"),
    ],
)
def test_a_run_does_not_go_on_under_other_conditions(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    start(SMALL, tmp_path, CPU, Silent(), seconds=1e-6)
    header = json.loads((tmp_path / "run.json").read_text())
    change(header)
    (tmp_path / "run.json").write_text(json.dumps(header))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadInput, match=said):
        resume(tmp_path, CPU, Silent())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_run_of_an_older_attnbench_goes_on_and_says_so(tmp_path: Path) -> None:
    start(SMALL, tmp_path, CPU, Silent(), seconds=1e-6)
    (tmp_path / "run.json").unlink()
    silent = Silent()
    assert resume(tmp_path, CPU, silent).finished
    assert "an older attnbench began this run" in silent.notes[0]


def test_two_cannot_train_in_one_folder(tmp_path: Path) -> None:
    start(SMALL, tmp_path, CPU, Silent(), seconds=1e-6)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Meddler(Silent):
        refusals: list[str]

        def note(self, text: str) -> None:
            if hasattr(self, "refusals"):  # once: a process that imports torch takes seconds
                return
            code = "import sys, torch; from pathlib import Path; from attnbench.mini.train import resume\n"
            code += "resume(Path(sys.argv[1]), torch.device('cpu'), None)"
            call = [sys.executable, "-c", code, str(tmp_path)]
            done = subprocess.run(call, capture_output=True, text=True, timeout=300)
            self.refusals = [done.stderr.strip().splitlines()[-1]]

    meddler = Meddler()
    assert resume(tmp_path, CPU, meddler).finished
    assert all(f"another process is training in {str(tmp_path)!r}; wait for it to end" in r for r in meddler.refusals)
    assert meddler.refusals
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    assert [line["step"] for line in read_log(tmp_path) if "loss" in line] == list(range(1, 9))


@pytest.mark.parametrize("changes", [{"batch": 10**13}, {"held_out": 10**13}])
def test_too_little_memory_is_one_sentence(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"there is not enough memory for .*: a smaller --batch, .*--held-out") as error:
        start(dataclasses.replace(SMALL, coarse=(), **changes), tmp_path / "run", CPU, Silent())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


_WORKER = """
import sys, torch
from pathlib import Path
from tests.mini.test_train import SHARED, Silent
from attnbench.mini.train import resume, start
from attnbench.mini.workers import joined
with joined(torch.device("cpu")) as (workers, device):
    folder = Path(sys.argv[1])
    start(SHARED, folder, device, Silent(), 1e-6, workers)
    resume(folder, device, Silent(), None, workers)
"""
SHARED = dataclasses.replace(SMALL, steps=6, coarse=((3, 8),), batch=4)


@pytest.mark.slow  # the small version is that of torchrun in test_cli_train.py
def test_two_processes_come_to_the_weights_of_one(tmp_path: Path) -> None:
    start(SHARED, tmp_path / "one", CPU, Silent())
    root = Path(__file__).resolve().parents[2]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    done = subprocess.run(
        [*torchrun, sys.executable, "-c", _WORKER, str(tmp_path / "two")], cwd=root, capture_output=True, text=True,
        timeout=300, env={**os.environ, "PYTHONPATH": str(root)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3, msg=name)
    losses = [[line["loss"] for line in read_log(tmp_path / f) if "loss" in line] for f in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert len(losses[1]) == 6
    assert [read_card(tmp_path / folder / "mini.safetensors")["processes"] for folder in ("one", "two")] == [1, 2]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(BadInput, match="process 3 has no GPU of its own: start at most 2"),
        joined(torch.device("cuda")),
    ):
        pass
    monkeypatch.delenv("MASTER_PORT")
    with joined(torch.device("cuda")) as (workers, device):  # somebody else's variables
        assert (workers.count, device) == (1, torch.device("cuda"))


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(BadInput, match="6 clips a step cannot be shared out among 4 processes: use multiples of 4"):
        Workers(1, 4).share(6)
    assert Workers(1, 3).share(6) == slice(2, 4)
