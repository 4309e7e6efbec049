"""The tables of training runs, from logs that are written here."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.report.training_tables import by_method, clips_table, loss_table
from attnbench.results.training import load_training


@pytest.fixture(scope="module")
def table() -> Callable[..., list[str]]:
    """Return the lines of both tables, as ``attnbench compare`` prints them."""

    def lines(
        folder: Path,
        methods: list[str] | None = None,
        seeds: list[int] | None = None,
        baseline: str = "full",
        seconds: float | None = None,
    ) -> list[str]:
        grouped = by_method(load_training(folder, methods, seeds), baseline)
        tables = [loss_table(grouped, baseline, seconds), clips_table(grouped, baseline)]
        return [line for each in tables if each is not None for line in each.markdown()]

    return lines


def write_run(
    folder: Path, step_ms: float, steps: int, loss_of: Callable[[int], list[float]], every: int = 10, wrong: int = 12
) -> None:
    """Write the log of a run: four coarse steps of 1 ms, then full clips, whose first step compiles for a minute.

    Of its 30 judged clips all from number ``wrong`` on show another class.
    """
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    total = 0.0
    for step in range(1, steps + 1):
        took = 0.001 if step <= 4 else 60.0 if step == 5 else step_ms / 1000
        total += took
        lines.append({"step": step, "loss": 1.0, "seconds": took, "total_seconds": total, "peak_mib": 2048.0})
        if step % every == 0 or step == steps:
            lines.append({"step": step, "held_out": 0.0, "held_out_losses": loss_of(step)})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text(json.dumps({"coarse": [[4, 64]]}))
    score = {"clips": 30, "wrong_class": list(range(wrong, 30)), "wrong_motion": [7, 8, 9], "density": 0.25}
    (folder / "mini.json").write_text(json.dumps({"engine": "triton", "score": score}))


def cells(lines: list[str], method: str) -> tuple[list[str], list[str]]:
    """Return what the tables of losses and of clips say of a method."""
    losses, clips = (
        [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if line.startswith(f"| {method} ")
    )
    return losses, clips


def test_equal_steps_and_equal_seconds_are_told_apart(table: Callable[..., list[str]], tmp_path: Path) -> None:
    def loss_of(step: int) -> list[float]:
        return [1 / step + clip / 100 for clip in range(8)]

    for seed in (0, 1):
        write_run(tmp_path / f"full-{seed}", 100.0, 40, loss_of)
        more = 0.001 + 0.002 * seed
        write_run(tmp_path / f"fast-{seed}", 50.0, 80, lambda step, more=more: [x + more for x in loss_of(step)])
    full, fast = (cells(table(tmp_path), name)[0] for name in ("full", "fast"))
    assert full[:5] == ["triton", "0.250", "2", "100.0", "2.0"]
    assert fast[:5] == ["triton", "0.250", "2", "50.0", "2.0"]
    assert full[5].startswith(f"{1 / 40 + 0.035:.4f} [")
    assert full[6] == full[9] == "–"
    assert fast[6] == "+0.0020 [+0.0020, +0.0020]; +0.0010 to +0.0030"
    assert (full[7], fast[7]) == ("40", "76")
    assert cells(table(tmp_path, seconds=2.0), "fast")[0][7] == "44"
    for seconds in (4.1, 0.5, float("nan")):
        with pytest.raises(BadInput, match=r"is not among those that every run has: 0\.6 to 3\.6"):
            table(tmp_path, seconds=seconds)
    after = 1 / 70 + 0.6 * (1 / 80 - 1 / 70)  # 76 steps, between two checkpoints
    assert fast[9].startswith(f"{after - 1 / 40 + 0.002:+.4f} [")


def test_clips_are_compared_one_by_one(table: Callable[[Path], list[str]], tmp_path: Path) -> None:
    for seed, wrong in enumerate((12, 15)):
        write_run(tmp_path / f"full-{seed}", 100.0, 40, lambda step: [1.0] * 8)
        write_run(tmp_path / f"fast-{seed}", 50.0, 80 + seed, lambda step: [1.0] * 8, wrong=wrong)
    full, fast = (cells(table(tmp_path), name)[1] for name in ("full", "fast"))
    assert full == ["40", "24 of 60 = 40.0% [28.6%, 52.6%]", "–", "54 of 60 = 90.0% [79.9%, 95.3%]", "–"]
    assert fast[:2] == ["80 to 81", "27 of 60 = 45.0% [33.1%, 57.5%]"]
    assert fast[2].startswith("+0.050 [+0.")  # three of 30 clips with one of two seeds, and never one less
    assert fast[2].endswith("]; +0.000 to +0.100")
    assert fast[4] == "+0.000 [+0.000, +0.000]; +0.000 to +0.000"


def test_some_runs_are_compared_with_another_baseline(table: Callable[..., list[str]], tmp_path: Path) -> None:
    for name, loss in (("full", 1.0), ("vmoba", 2.0), ("vmoba-1d", 2.5)):
        write_run(tmp_path / f"{name}-0", 100.0, 40, lambda step, loss=loss: [loss] * 8)
    write_run(tmp_path / "vmoba-1", 100.0, 40, lambda step: [3.0] * 8)
    lines = table(tmp_path, methods=["vmoba-1d", "vmoba"], seeds=[0], baseline="vmoba")
    assert "difference from vmoba" in lines[0]
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["vmoba", "vmoba-1d"]
    assert cells(lines, "vmoba-1d")[0][6] == "+0.5000 [+0.5000, +0.5000]"
    for asked, said in (({"methods": ["mob"]}, "no run of method 'mob'"), ({"seeds": [0, 7]}, "no run of seed 7")):
        with pytest.raises(BadInput, match=said):
            table(tmp_path, **asked)
    with pytest.raises(BadInput, match="no run of these methods with these seeds"):
        table(tmp_path, methods=["full"], seeds=[1])


def test_shared_coarse_stages_do_not_count(table: Callable[[Path], list[str]], tmp_path: Path) -> None:
    for name, step_ms, steps in (("full", 100.0, 44), ("fast", 50.0, 80)):
        write_run(tmp_path / f"{name}-0", step_ms, steps, lambda step: [1 / step] * 8)
        (tmp_path / f"{name}-0" / "config.json").write_text(json.dumps({"coarse": [[4, 64]], "dense_coarse": True}))
    header, _, *rows = table(tmp_path)
    assert "held-out loss after 36 steps | difference from full | steps in 4 s" in header
    assert [cells(rows, name)[0][7] for name in ("full", "fast")] == ["38", "76"]
    log = tmp_path / "fast-0" / "train.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if json.loads(line)["step"] > 4))  # as of stages taken over
    assert table(tmp_path)[0] == header
    assert cells(table(tmp_path), "fast") == cells(rows, "fast")
    (tmp_path / "full-0" / "train.jsonl").write_text(
        "".join(json.dumps({"step": step, "loss": 1.0, "seconds": 1.0, "peak_mib": 1.0}) + "\n" for step in range(1, 5))
        + json.dumps({"step": 4, "held_out": 0.0, "held_out_losses": [1.0]})
    )
    with pytest.raises(BadInput, match="full-0' holds no training run with a checkpoint"):
        table(tmp_path)


def test_a_gzipped_log_is_read_as_it_was_and_a_torn_one_refused(
    table: Callable[[Path], list[str]], tmp_path: Path
) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"full-{seed}", 100.0, 40, lambda step: [1 / step] * 8)
    lines = table(tmp_path)
    log = tmp_path / "full-1" / "train.jsonl"
    packed = log.with_name("train.jsonl.gz")
    packed.write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()
    assert table(tmp_path) == lines
    for torn in (packed.read_bytes()[:-20], b"not gzip", gzip.compress(b"\xff")):
        packed.write_bytes(torn)
        with pytest.raises(BadInput, match=r"training log '.*train\.jsonl\.gz' cannot be read"):
            table(tmp_path)


def test_runs_without_a_common_checkpoint_are_refused(table: Callable[[Path], list[str]], tmp_path: Path) -> None:
    write_run(tmp_path / "full-0", 100.0, 10, lambda step: [1.0, 2.0])
    write_run(tmp_path / "slow-0", 9000.0, 40, lambda step: [1.0, 2.0])
    with pytest.raises(BadInput, match="slow-0: no checkpoint where every other run has one"):
        table(tmp_path)
    with pytest.raises(BadInput, match="holds no training runs"):
        table(tmp_path / "full-0")


def test_what_is_not_a_finished_run_is_named(table: Callable[[Path], list[str]], tmp_path: Path) -> None:
    write_run(tmp_path / "full-0", 100.0, 40, lambda step: [1.0] * 8)
    write_run(tmp_path / "moba", 100.0, 40, lambda step: [1.0] * 8)
    with pytest.raises(BadInput, match="moba' is not named METHOD-SEED"):
        table(tmp_path)
    (tmp_path / "moba").rename(tmp_path / "moba-0")
    (tmp_path / "moba-0" / "mini.json").unlink()
    with pytest.raises(BadInput, match="moba-0' holds no finished run"):
        table(tmp_path)
    (tmp_path / "moba-0" / "config.json").write_text("{")
    with pytest.raises(BadInput, match="moba-0' holds no finished run"):
        table(tmp_path)
