"""Two gloo ranks that call the command line several times, as test_group.py asks.

Started as ``python crew.py FOLDER``. FOLDER/calls.json lists the calls: the words of each rank, and a journal to make
first of another one, without its rows, its phases and the samples from some round on. One that is "spoiled" adds no
gradients up. What each rank printed and its exit code come back in FOLDER/said.json.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from attnbench.bench import rounds, stability
from attnbench.bench.profile import call as profile_call
from attnbench.cli import main
from attnbench.machine import stopwatch

for name in (
    "torch._inductor",
    "attnbench.scale.group_run",
    "attnbench.cli.run",
    "attnbench.report.terminal.phases",
    "diffusers",
    "attnbench.scale.group_step",
):
    importlib.import_module(name)  # once, before ranks are forked


def spare() -> None:
    """Spare calls of microseconds what takes longer than they do, as tests/conftest.py does."""
    for place in (stopwatch, profile_call):
        place.cache_bytes = lambda device: 2**16
    stability.MOST_CALLS = stability.LEAST_CALLS
    rounds.MOST_EAGER = 4


def cut(source: Path, target: Path, rounds_kept: int) -> None:
    """Make a run that was interrupted."""
    target.mkdir()
    shutil.copy(source / "journal.jsonl", source.with_name("whole"))
    lines = []
    for line in (source / "journal.jsonl").read_text().splitlines(keepends=True):
        record = json.loads(line)
        if record["kind"] == "run" or (record["kind"] == "sample" and record["round"] < rounds_kept):
            lines.append(line)
    (target / "journal.jsonl").write_text("".join(lines))


def lose_sums() -> None:
    """Let each rank keep its own where ranks add tensors up."""
    add = dist.all_reduce
    dist.all_reduce = lambda x, **options: add(x.clone(), **options)


def begin(rank: int, port: int, words: Sequence[str], said: Path, spoiled: bool) -> int:
    """Fork a rank that calls the command line; what it prints goes to a file."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }  # fmt: skip
        if spoiled:
            lose_sums()
        sys.argv = ["attnbench", *words]
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 70
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def serve(folder: Path) -> None:
    torch.set_num_threads(1)
    spare()
    calls: list[dict[str, Any]] = json.loads((folder / "calls.json").read_text())
    found = []
    for call, port in zip(calls, free_ports(len(calls)), strict=True):
        if "cut" in call:
            source, target, kept = call["cut"]
            cut(folder / source, folder / target, kept)
        said = [folder / f"said-{rank}" for rank in range(2)]
        ranks = [begin(rank, port, call["words"][rank], said[rank], "spoiled" in call) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in ranks]
        found.append([[code, place.read_text()] for code, place in zip(codes, said, strict=True)])
    (folder / "said.json").write_text(json.dumps(found))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
