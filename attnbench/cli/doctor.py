"""`attnbench doctor`: what of this machine is usable, and how to get the rest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from attnbench.machine.doctor import Finding


def doctor(
    out: Annotated[Path, typer.Option(help="Folder that results are written to.")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
) -> None:
    """Say which devices, engines, codecs and extras can be used here, and how to get the rest."""
    from attnbench.machine.doctor import examine

    findings = examine(out)
    if as_json:
        import json

        print(json.dumps({"findings": [finding.to_dict() for finding in findings]}, indent=2))
    else:
        _show(findings)


def _show(findings: list[Finding]) -> None:

    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.console import console

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "name", "usable"):
        table.add_column(name, no_wrap=True)
    for name in ("what was found", "how to get it"):
        table.add_column(name, overflow="fold")
    group = ""
    for finding in findings:
        mark = Text("yes", style="green") if finding.usable else Text("no", style="yellow")
        heading = Text(finding.group if finding.group != group else "", style="bold")
        table.add_row(heading, finding.name, mark, Text(finding.detail), Text(finding.remedy))
        group = finding.group
    console(160).print(table)
