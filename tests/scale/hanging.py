"""Two gloo ranks, of which one hangs or leaves early, as test_watch.py asks.

Started as ``python hanging.py FOLDER``. For each case, the exit code of rank 0 and what it said come back in
FOLDER/said.json; -9 is a rank that had to be ended.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch

from attnbench.scale import watch
from attnbench.scale.ranks import joined


def stops(rank: int) -> None:
    """Rank 1 is stopped, as by a debugger, and rank 0 waits for it."""
    with joined(torch.device("cpu")) as crew, watch.watched(crew):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        crew.tell(rank)


def loops(rank: int) -> None:
    """Rank 0 takes longer than it may, and rank 1 waits for it, which it may for longer."""
    with joined(torch.device("cpu")) as crew, watch.watched(crew, 0.5):
        if rank == 0:
            time.sleep(20)
        crew.tell(rank)


def leaves(rank: int) -> None:
    """Rank 1 is done before rank 0, which is no reason to end."""
    with joined(torch.device("cpu")) as crew, watch.watched(crew, 20.0):
        crew.tell(rank)
        if rank == 0:
            time.sleep(2.5)
            print("done")


def begin(case: str, rank: int, port: int, said: Path) -> int:
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        {"stops": stops, "loops": loops, "leaves": leaves}[case](rank)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def serve(folder: Path) -> None:
    watch.SILENCE, watch.BEAT = 1.0, 0.1
    found = {}
    for case in ("stops", "loops", "leaves"):
        with socket.create_server(("127.0.0.1", 0)) as held:
            port = held.getsockname()[1]
        said = [folder / f"{case}-{rank}" for rank in range(2)]
        ranks = [begin(case, rank, port, said[rank]) for rank in range(2)]
        limit = time.monotonic() + 15
        while (ended := os.waitpid(ranks[0], os.WNOHANG))[0] == 0 and time.monotonic() < limit:
            time.sleep(0.05)
        if ended[0] == 0:
            os.kill(ranks[0], signal.SIGKILL)
            ended = os.waitpid(ranks[0], 0)
        os.kill(ranks[1], signal.SIGKILL)
        os.waitpid(ranks[1], 0)
        found[case] = [os.waitstatus_to_exitcode(ended[1]), said[0].read_text()]
    (folder / "said.json").write_text(json.dumps(found))


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
