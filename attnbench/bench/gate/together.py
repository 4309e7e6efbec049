"""Run several requests of this attnbench at the same time, each in a process of its own, in turns call by call."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from attnbench.bench import session
from attnbench.bench.gate.turns import Command, run_in_turns
from attnbench.bench.request import Request
from attnbench.kernels.errors import BadInput
from attnbench.machine.command import recorded_as, typed_command
from attnbench.machine.printed import last_words
from attnbench.results.run import NoProgress

_PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from attnbench.bench.gate.together import main; main(*sys.argv[2:])"
)


def measure_together(requests: Mapping[str, Request], folder: Path) -> None:
    """Measure requests in turns.

    Args:
        requests: by the place of each run in ``folder``.
        folder: existing. Beside each run is a log of what its process printed.

    Raises:
        BadInput: if a run does not come to its end.
    """
    commands, places = {}, {}
    for number, (place, request) in enumerate(requests.items()):
        words = [json.dumps(sys.path), request.model_dump_json(), str(folder / place), json.dumps(typed_command())]
        (folder / place).parent.mkdir(exist_ok=True)
        log = (folder / place).with_suffix(".log")
        name = f"run-{number}"
        commands[name], places[name] = Command([sys.executable, "-c", _PROGRAM, *words], {}, log), place
    for name, code in run_in_turns(commands).items():
        if code:
            log = commands[name].log
            said = last_words(log.read_text(encoding="utf-8", errors="replace")) or "no message"
            raise BadInput(f"the run {places[name]!r} ended with exit code {code}: {said}")
        commands[name].log.unlink()


def main(request: str, folder: str, command: str) -> None:
    """Measure one of the requests, in its own process."""
    with recorded_as(json.loads(command)):
        session.start(Request.model_validate_json(request), Path(folder), NoProgress())
