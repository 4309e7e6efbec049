"""Measure the tables of results/h100 on the machine at hand: full attention, VMoBA and STA at three lengths.

python scripts/h100_tables.py OUT      # journals go to OUT/<resolution>-<inputs>-<direction>[-<engine>|-tile64].jsonl
python scripts/h100_tables.py OUT --only 576p-video-fwd …
python scripts/h100_tables.py --list

12 heads of 128, bfloat16, on Gaussian and video inputs, forward, and forward with backward. One process measures all,
so that kernels are compiled once; a table's cells are interleaved in rounds. Tables that end in an engine's name hold
STA on that engine, where "auto" may take another; those that end in "tile64" hold STA on tiles of 64 tokens, as VSA has
them, at about its density. The exit code is 1 if a cell has no latency.
Where the checkout has travelled without git, give the commit as ATTNBENCH_COMMIT=….
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

TILES = {"480p": (6, 8, 8), "576p": (6, 4, 16), "720p": (6, 8, 8)}
TABLES = {
    f"{res}-{inputs}-{direction}{'' if engine == 'auto' else '-' + engine}": {
        "res": res, "inputs": inputs, "direction": direction, "engine": engine,
    }
    for engine, inputs, direction, res in product(
        ("auto", "triton", "flash4"), ("gaussian", "video"), ("fwd", "fwdbwd"), ("576p", "720p", "480p")
    )
    if engine == "auto" or inputs == "gaussian"
}  # fmt: skip
SMALL = {"tile": (4, 4, 4), "window": (5, 5, 5)}
TABLES |= {
    f"{res}-gaussian-fwd-tile64": {"res": res, "inputs": "gaussian", "direction": "fwd", "engine": "triton"}
    for res in TILES
}


def measure(name: str, out: Path, rounds: int) -> bool:
    """Measure one table into ``out``, and return whether every cell has a latency."""
    from attnbench.bench.request import read_request
    from attnbench.bench.session import start
    from attnbench.cli.progress import TerminalProgress
    from attnbench.results.journal import JOURNAL

    asked: dict[str, Any] = TABLES[name]
    sta = SMALL if name.endswith("tile64") else {"tile": TILES[asked["res"]]}
    methods: dict[str, dict[str, Any]] = {"sta": sta}
    if asked["engine"] == "auto":
        methods = {"full": {}, "vmoba": {}, **methods}
    with tempfile.TemporaryDirectory() as scratch, TerminalProgress() as progress:
        folder = Path(scratch) / name
        outcome = start(read_request(methods=methods, rounds=rounds, **asked), folder, progress)
        shutil.copyfile(folder / JOURNAL, out / f"{name}.jsonl")
    for row in outcome.rows:
        found = row.reason if row.latency_ms is None else f"{row.latency_ms:.2f} ms, {row.speedup or 0:.2f}x dense"
        print(f"{name}: {row.method} layer {row.layer} on {row.engine}: {row.verdict} {found}", flush=True)
    return all(row.verdict == "ok" for row in outcome.rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="folder of the journals")
    parser.add_argument("--only", nargs="+", choices=[*TABLES], default=[*TABLES], help="tables to measure")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--list", action="store_true", help="print the names of the tables")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TABLES))
        return 0
    if options.out is None:
        parser.error("name the folder that the journals go to")
    options.out.mkdir(parents=True, exist_ok=True)
    wrong = []
    for name in options.only:
        begun = time.perf_counter()
        try:
            right = measure(name, options.out, options.rounds)
        except Exception as error:  # the other tables are measured all the same
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            right = False
        print(f"{name}: took {time.perf_counter() - begun:.0f} s", flush=True)
        wrong += [] if right else [name]
    if wrong:
        print(f"without a latency for every cell: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
