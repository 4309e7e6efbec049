"""Profile methods on the machine at hand: where the time goes, at three lengths, on our kernels and on two calls.

python scripts/h100_profiles.py OUT      # journals go to OUT/<resolution>-<direction>[-<engine>].jsonl
python scripts/h100_profiles.py OUT --only 720p-fwd …   # traces to OUT/traces/<cell_id>.json.gz
python scripts/h100_profiles.py --list

12 heads of 128, bfloat16, video inputs. Each table is a run of ``attnbench profile``: cells are verified, timed in
interleaved rounds, and then profiled one by one. Tables that end in "two-call" hold the published structure of MoBA and
VMoBA; "unfused" has one head of full attention with kernels of their own for QK, softmax and AV. Those with "step" are
runs of ``attnbench profile --end-to-end``: a step of Wan 2.1 1.3B, random weights, with each method in its place.
A table that fails leaves the others, and its journal keeps the cells that were finished. After ``--seconds`` no further
table is begun. If an error leaves the GPU unusable to this process, the rest goes on in a new one. The exit code is 1
if a cell has no phases. Where the checkout has travelled without git, give the commit as ATTNBENCH_COMMIT=….
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.bench.bench import Bench
    from attnbench.results.journal import Journal
    from attnbench.results.records.cells import PhaseRow, Row

TILES = {"480p": (6, 8, 8), "576p": (6, 4, 16), "720p": (6, 8, 8)}
_LENGTHS = ("576p", "720p", "480p")
TABLES: dict[str, dict[str, Any]] = {
    **{f"{res}-fwd": {"res": res} for res in _LENGTHS},
    **{f"{res}-fwd-two-call": {"res": res, "engine": "two-call"} for res in _LENGTHS},
    "480p-fwd-unfused": {"res": "480p", "engine": "unfused", "heads": 1},
    **{f"{res}-fwdbwd": {"res": res, "direction": "fwdbwd"} for res in _LENGTHS},
    **{f"{res}-fwdbwd-two-call": {"res": res, "direction": "fwdbwd", "engine": "two-call"} for res in _LENGTHS},
    **{
        f"480p-step-{direction}": {"res": "480p", "direction": direction, "step": True}
        for direction in ("fwdbwd", "fwd")
    },
}
"""Requests by name, the most wanted first."""


def methods_of(asked: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the methods of a table and their settings."""
    engine = asked.get("engine", "auto")
    if engine == "unfused":
        return {"full": {}}
    if asked.get("step"):
        return {"vmoba": {}, "sta": {"tile": TILES[asked["res"]]}}
    if engine == "two-call":
        return {"vmoba": {}, "moba": {}}
    return {"full": {}, "vmoba": {}, "moba": {}, "sta": {"tile": TILES[asked["res"]]}, "sliding-window": {}}


def measure(name: str, out: Path, rounds: int, repeats: int, traces: bool) -> bool:
    """Profile one table into ``out``, and return whether every cell has phases."""
    from attnbench.bench.profile.cells import TRACES, profile_rows
    from attnbench.bench.request import read_request
    from attnbench.bench.session import start
    from attnbench.cli.progress import TerminalProgress
    from attnbench.results.journal import JOURNAL

    asked = {"inputs": "video", "device": "cuda", **TABLES[name]}
    phases: list[PhaseRow] = []
    with tempfile.TemporaryDirectory() as scratch, TerminalProgress() as progress:
        folder = Path(scratch) / name

        def after(bench: Bench, journal: Journal, rows: tuple[Row, ...]) -> None:
            phases.extend(profile_rows(bench, journal, rows, progress, repeats=repeats, traces=traces))

        try:
            outcome = start(
                read_request(methods=methods_of(TABLES[name]), rounds=rounds, **asked), folder, progress, after
            )
        finally:
            if (folder / JOURNAL).exists():
                shutil.copyfile(folder / JOURNAL, out / f"{name}.jsonl")
            if (folder / TRACES).exists():
                shutil.copytree(folder / TRACES, out / TRACES, dirs_exist_ok=True)
    right = True
    for row in outcome.rows:
        own = [phase for phase in phases if phase.row_id == row.row_id]
        right = right and bool(own)
        print(f"{name}: {describe(row, own)}", flush=True)
    return right


def measure_whole_step(name: str, out: Path, rounds: int) -> bool:
    """Measure one step with each method into ``out``, and return whether every row has phases."""
    from attnbench.bench.step.session import StepRequest, run_step
    from attnbench.cli.progress import TerminalProgress
    from attnbench.results.journal import JOURNAL

    asked = {field: value for field, value in TABLES[name].items() if field != "step"}
    request = StepRequest(methods=methods_of(TABLES[name]), device="cuda", rounds=rounds, **asked)
    with tempfile.TemporaryDirectory() as scratch, TerminalProgress() as progress:
        folder, records = run_step(request, Path(scratch) / name, progress)
        shutil.copyfile(folder / JOURNAL, out / f"{name}.jsonl")
    for record in records:
        print(
            f"{name}: {record.name}: {record.step_ms:.0f} ms a step, {record.step_speedup:.2f}x {record.baseline}; "
            f"attention {record.attention_ms:.0f} ms, {record.attention_speedup:.2f}x",
            flush=True,
        )
    return all(record.phases_ms for record in records)


def describe(row: Row, phases: list[PhaseRow]) -> str:
    """Say in a line or two what a cell's profile found."""
    found = row.reason if row.latency_ms is None else f"{row.latency_ms:.2f} ms, {row.speedup or 0:.2f}x dense"
    said = f"{row.method} layer {row.layer} on {row.engine}: {row.verdict} {found}"
    for provenance in ("measured", "ablated", "modelled"):
        own = [p for p in phases if p.provenance == provenance]
        if own:
            times = ", ".join(f"{p.pass_} {p.phase} {p.time_ms:.3f}" for p in own)
            said += f"\n    {provenance}: {times}"
    for complaint in dict.fromkeys(p.complaint for p in phases if p.complaint):
        said += f"\n    complaint: {complaint}"
    return said


def usable() -> bool:
    """Whether this process can still use the GPU: some errors of kernels end that for good."""
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception as error:
        print(f"the GPU is lost to this process: {error}", file=sys.stderr)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="folder of the journals, better a relative one")
    parser.add_argument("--only", nargs="+", choices=[*TABLES], default=[*TABLES], help="tables to measure")
    parser.add_argument("--rounds", type=int, default=7, help="samples of each latency")
    parser.add_argument("--repeats", type=int, default=5, help="profiled calls of each cell")
    parser.add_argument("--seconds", type=float, default=240.0, help="after so long no further table is begun")
    parser.add_argument("--no-traces", action="store_true", help="write no Chrome traces")
    parser.add_argument("--list", action="store_true", help="print the names of the tables")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TABLES))
        return 0
    if options.out is None:
        parser.error("name the folder that the journals go to")
    options.out.mkdir(parents=True, exist_ok=True)
    started, wrong = time.perf_counter(), []
    for place, name in enumerate(options.only):
        begun = time.perf_counter()
        if begun - started > options.seconds:
            print(f"out of time, not begun: {', '.join(options.only[place:])}")
            wrong += options.only[place:]
            break
        try:
            if TABLES[name].get("step"):
                right = measure_whole_step(name, options.out, min(options.rounds, 3))
            else:
                right = measure(name, options.out, options.rounds, options.repeats, not options.no_traces)
        except Exception as error:  # the other tables are measured all the same
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            right = False
        print(f"{name}: took {time.perf_counter() - begun:.0f} s", flush=True)
        wrong += [] if right else [name]
        rest = options.only[place + 1 :]
        if rest and not usable():
            left = options.seconds - (time.perf_counter() - started)
            again = [sys.executable, __file__, str(options.out), "--rounds", str(options.rounds)]
            again += ["--repeats", str(options.repeats), "--seconds", str(left), "--only", *rest]
            return subprocess.call(again + ["--no-traces"] * options.no_traces) or bool(wrong)
    if wrong:
        print(f"without phases for every cell: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
