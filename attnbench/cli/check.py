"""``attnbench check``: whether a method does what is asked of every method."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer

from attnbench.cli.options import JsonOption, SeedOption, SetOption
from attnbench.cli.terminal import say


def check(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="Name of a registered method.")],
    settings: SetOption = None,
    seed: SeedOption = 0,
    stability_calls: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="How often each case is called on the same inputs. Default: often enough to see a race in one of 100.",
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only checks that failed or were skipped, and the result.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a method on small grids: any grid, text, ties, float64, twin, stability, settings as JSON, and more.

    Exit codes: 0 all passed, 1 a check failed, 2 bad input.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are tiny: threads would only wait for one another
    from attnbench.bench.conformance import CHECKS, Subject, run_checks
    from attnbench.bench.stability import GIVEN_CALLS
    from attnbench.cli.options import asked_methods
    from attnbench.methods import get_method, make_settings

    (entry,) = asked_methods([method], settings)
    chosen, given = get_method(entry.method), entry.settings
    make_settings(chosen, given)
    outcomes = []
    width = max(map(len, CHECKS))
    for outcome in run_checks(Subject(chosen, given, seed, stability_calls or GIVEN_CALLS)):
        outcomes.append(outcome)
        if not as_json and not (quiet and outcome.verdict == "pass"):
            say(f"{outcome.verdict}  {outcome.name:<{width}}  {outcome.detail}")
    failed = [outcome.name for outcome in outcomes if outcome.verdict == "fail"]
    if as_json:
        checks = [{"name": o.name, "verdict": o.verdict, "detail": o.detail} for o in outcomes]
        print(json.dumps({"method": method, "settings": given, "passed": not failed, "checks": checks}))
    else:
        say(f"{method}: {'failed ' + ', '.join(failed) if failed else 'nothing failed'}")
    raise typer.Exit(1 if failed else 0)
