"""The tables of a calibration: what comparisons say where nothing changed, and where calls were slower on purpose."""

from __future__ import annotations

from attnbench.report.word_table import WordTable
from attnbench.report.words import NONE
from attnbench.results.calibration import Calibration, Share
from attnbench.results.noise import NoiseModel


def noise_sentence(model: NoiseModel) -> str:
    """Return how much runs differ on a device."""
    return (
        f"{model.device}: from run to run speed-ups deviate by {_percent(model.speedup_sd)} and latencies by "
        f"{_percent(model.latency_sd)} ({model.runs} runs of {model.cells} methods)."
        + (
            f" Pairs of runs that take turns deviate by {_percent(model.pair_sd)} beyond their rounds."
            if model.pairs
            else ""
        )
    )


def unchanged_table(found: Calibration) -> WordTable:
    """Return what comparisons of runs without a change say."""
    rows = [
        ("methods called slower", found.slower),
        ("methods called faster", found.faster),
        ("methods that stay unclear", found.unclear),
        ("intervals that hold the truth", found.covered),
        ("comparisons that fail (exit code 1)", found.failed),
        ("comparisons that stay unclear (exit code 3)", found.undecided),
    ]
    return WordTable(
        ("where nothing changed", "share", "95 % interval", "of"),
        tuple((name, _value(share), _interval(share), f"{share.of:,}") for name, share in rows),
        frozenset({1, 2, 3}),
    )


def delays_table(found: Calibration) -> WordTable | None:
    """Return how often each delay was found; None if none was tried."""
    if not found.delayed:
        return None
    return WordTable(
        ("delay", "methods called slower", "95 % interval", "unclear", "comparisons that fail", "of", "runs"),
        tuple(
            (
                _percent(each.delay), _value(each.slower), _interval(each.slower), _value(each.unclear),
                _value(each.failed), f"{each.slower.of:,}", str(each.runs),
            )
            for each in found.delayed
        ),
        frozenset(range(7)),
    )  # fmt: skip


def _value(share: Share) -> str:
    return _percent(share.value) if share.of else NONE


def _interval(share: Share) -> str:
    return f"{100 * share.lo:.1f} to {100 * share.hi:.1f} %" if share.of else NONE


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
