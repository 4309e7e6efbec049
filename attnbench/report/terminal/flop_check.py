"""Compare the closed form of a model's FLOPs with two counters on its real modules: a table, and plain records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnbench.cost.flops.modules import TOLERANCE, ModuleCount
from attnbench.cost.flops.wan import ForwardFlops
from attnbench.report.terminal.flops import tera

if TYPE_CHECKING:
    from attnbench.report.terminal.fitted import Fitted


def check_table(ours: ForwardFlops, counts: Sequence[ModuleCount]) -> Fitted:
    """Return the parts and the total as a table of rich, in TFLOP, each counter with its relative difference."""
    from rich import box
    from rich.table import Table

    from attnbench.report.terminal.fitted import Fitted

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("part", no_wrap=True)
    table.add_column("closed form", justify="right", no_wrap=True)
    for count in counts:
        table.add_column(count.counter, justify="right", no_wrap=True)
        table.add_column("difference", justify="right", no_wrap=True)
    for part, exact in ours.parts.items():
        cells = [part.replace("_", " "), tera(exact)]
        for count in counts:
            found = count.parts[part]
            cells += ["not seen", ""] if found is None else [tera(found), _percent(count.difference(ours, part))]
        table.add_row(*cells)
    table.add_section()
    totals = ["total", tera(ours.total)]
    for count in counts:
        totals += [tera(count.total), _percent(count.total_difference(ours))]
    table.add_row(*totals)
    return Fitted(table, ("difference",))


def check_lines(ours: ForwardFlops, counts: Sequence[ModuleCount]) -> list[str]:
    """Return the lines below the table: units, what a counter does not see, and the verdict."""
    lines = [
        "TFLOP of one forward pass, 2 for a multiply-add. The counters run diffusers' modules on the meta device.",
        "Neither the closed form nor FlopCounterMode counts norms, activations, softmax, rotary embedding and "
        "modulation.",
    ]
    for count in counts:
        if unseen := [part.replace("_", " ") for part, found in count.parts.items() if found is None]:
            lines.append(
                f"{count.counter} does not see {' and '.join(unseen)}: it has no formula for fused attention. "
                "Its total is compared with the other parts."
            )
        if count.unseen:
            calls = ", ".join(f"{name} {number}×" for name, number in count.unseen.items())
            lines.append(f"{count.counter} skips these operators: {calls}.")
        for name, number in count.others.items():
            lines.append(
                f"{count.counter} also counts {name}: {tera(number)} TFLOP in its own unit, which are in no row."
            )
        if count.outside:
            lines.append(f"{count.counter} finds {tera(count.outside)} TFLOP of matrix products in no part.")
    differing = [count.counter for count in counts if not count.agrees(ours)]
    verdict = f"differs: {', '.join(differing)}" if differing else "agrees"
    return [*lines, f"{verdict} (tolerance {TOLERANCE:.2%} of each part and of the total)"]


def check_records(ours: ForwardFlops, counts: Sequence[ModuleCount]) -> dict[str, Any]:
    """Return the same as plain records. FLOPs are single operations; null means not seen."""
    return {
        "tolerance": TOLERANCE,
        "agrees": all(count.agrees(ours) for count in counts),
        "closed_form": {"parts": ours.parts, "flops": ours.total},
        "counters": [
            {
                "counter": count.counter,
                "agrees": count.agrees(ours),
                "parts": dict(count.parts),
                "flops": count.total,
                "relative_difference": count.total_difference(ours),
                "others": dict(count.others),
                "outside": count.outside,
                "unseen_calls": dict(count.unseen),
            }
            for count in counts
        ],
    }


def _percent(difference: float | None) -> str:
    return "" if difference is None else "0" if difference == 0 else f"{difference:+.3%}"
