"""What a part of a capture without k or without v still tells, and what is skipped for want of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnbench.analysis.call import AttentionCall, Finding
from attnbench.analysis.similarity import similarity
from attnbench.results.premises import premises

NEED_V = ("energy", "approximation_error")
"""Measures of outputs. All others but the self-similarity of queries need k, and not v."""


def without_k(call: AttentionCall) -> Iterator[Finding]:
    """Yield what queries tell by themselves, and the other measures that premises or the page rest on as skipped."""
    alone = list(similarity(call, "q"))
    yield from alone
    told = {each.measure for each in alone}
    needed = dict.fromkeys(
        ["entropy", "energy", "class_margin", *(name for each in premises() for name in each.measures)]
    )
    for measure in needed:
        if measure not in told:
            yield Finding.skipped(measure, f"{_lacks(call, 'k')}, and maps are of q and k")


def without_v(finding: Finding, call: AttentionCall) -> Finding:
    """Return a finding of a call, skipped if it is of outputs."""
    if finding.measure not in NEED_V or finding.value is None:
        return finding
    reason = f"{_lacks(call, 'v')}, and outputs are of v"
    return replace(finding, value=None, lo=None, hi=None, status="skipped", reason=reason)


def _lacks(call: AttentionCall, name: str) -> str:
    where = "" if call.step is None else f" of layer {call.layer}, step {call.step}"
    return f"the capture has no {name}{where}"
