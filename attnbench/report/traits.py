"""What limits the error of a row, in words: a state made on the inputs that are measured, and training that is absent.

It takes nothing from the latency, so it is no flag. Errors of such rows are not those that a clip would see.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from attnbench.kernels.errors import BadInput
from attnbench.methods.base import Training
from attnbench.methods.registry import get_method, make_settings
from attnbench.report.words import listed, number
from attnbench.results.records.cells import Row, settings_of

STATE, UNTRAINED = "state", "untrained"


@dataclass(frozen=True)
class TraitWords:
    """How a trait is told.

    Attributes:
        name: the trait, as in tables, and on badges.
        meaning: what it says, as a clause.
    """

    name: str
    meaning: str


TRAIT_WORDS = (
    TraitWords(
        STATE,
        "it keeps a state between steps, which was made on the very inputs that are measured, so its error is a lower "
        "bound; its latency holds a share of what making the state anew costs",
    ),
    TraitWords(
        UNTRAINED,
        "it is meant for models that were trained with it, and these inputs are of no such model, so its error is not "
        "that of a trained one",
    ),
)
"""In the order in which they are told."""


def traits_of(row: Row) -> str:
    """Return the traits of a row, as "state" or "state,untrained"; empty without any."""
    found = [STATE] if has_state(row) else []
    return ",".join([*found, UNTRAINED] if _training(row) is not None else found)


def has_state(row: Row) -> bool:
    """Whether a state was made for what a row measured: on the same inputs, in the calls before."""
    return row.refresh_ms is not None


def error_words(rows: Iterable[tuple[str, Row]]) -> str:
    """Say in sentences which errors are not those that a clip would see, and why; empty if all are.

    Args:
        rows: names and rows.
    """
    known = [(name, row) for name, row in rows if row.approximation_error is not None]
    stateful = [(name, row) for name, row in known if has_state(row)]
    untrained = [(name, training) for name, row in known if (training := _training(row)) is not None]
    return " ".join(filter(None, (_state_words(stateful), _training_words(untrained))))


def charge_words(rows: Iterable[tuple[str, Row]]) -> str:
    """Say in a sentence which methods are charged for making their states anew, and what that costs; empty if none.

    Args:
        rows: names and rows.
    """
    found = [(name, row) for name, row in rows if has_state(row) and row.latency_ms is not None]
    if not found:
        return ""
    several = len(found) > 1
    costs = listed(f"{number(row.refresh_ms)} ms every {_count(row.refresh_every)} steps" for _, row in found)
    made = "their states anew" if several else "its state anew"
    steady = listed(number(row.latency_ms) for _, row in found)
    others = [
        f" One step in {_count(row.other_every)} of {name} is of a third kind, and takes {number(row.other_ms)} ms."
        for name, row in found
        if row.other_ms is not None
    ]
    return f"{listed(name for name, _ in found)} {'are' if several else 'is'} charged for making {made}: {costs}. " + (
        f"Steps between take {steady} ms.{''.join(others)}"
    )


def _count(every: float | None) -> str:
    return "–" if every is None else f"{every:.3g}"


def _state_words(rows: list[tuple[str, Row]]) -> str:
    if not rows:
        return ""
    exact = [name for name, row in rows if _is_rounding(row)]
    repaired = f" That of {listed(exact)} is rounding alone: the state repairs the output exactly." if exact else ""
    names, several = listed(name for name, _ in rows), len(rows) > 1
    states, errors = ("states", "errors are lower bounds") if several else ("state", "error is a lower bound")
    made = f"{names}: the {states} {'were' if several else 'was'} made on the very inputs that are measured"
    return f"{made}, so {'their' if several else 'its'} {errors}.{repaired}"


def _is_rounding(row: Row) -> bool:
    error, limit = row.approximation_error, row.numerical_tolerance
    return error is not None and limit is not None and error <= limit and (row.density or 1.0) < 1.0


def _training_words(found: list[tuple[str, Training]]) -> str:
    if not found:
        return ""
    names = listed(name for name, _ in found)
    told = [f"{name}: {training.stand_in}" for name, training in found if training.stand_in]
    with_it, errors = ("them", "their errors are") if len(found) > 1 else ("it", "its error is")
    said = f"{names} {'are' if len(found) > 1 else 'is'} meant for models that were trained with {with_it}, and these "
    said += f"inputs are not of such: {errors} not those of trained models."
    return f"{said} {'; '.join(told)}." if told else said


def _training(row: Row) -> Training | None:
    """Return what a method says of its training, where a row was measured without; None if it needs none.

    Captured inputs may be of a model that was trained with the method, but calls that are timed have no learned
    tensors.
    """
    found = _declared(row.method, row.settings)
    return None if found is None or (row.inputs.startswith("capture:") and not found.stand_in) else found


@cache
def _declared(method: str, settings: str) -> Training | None:
    try:
        known = get_method(method)
        found = known.training
        needed = found is not None and found.needed(make_settings(known, settings_of(settings) or {}))
    except BadInput:  # of a package that is not here, or of another version
        return None
    return found if needed else None
