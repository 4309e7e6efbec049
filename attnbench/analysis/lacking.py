"""What a capture without k or without v still tells, and what is skipped for want of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attnbench.analysis.call import AttentionCall, Finding
from attnbench.analysis.premises import premises
from attnbench.analysis.similarity import similarity

NEED_V = ("energy", "approximation_error")
"""Measures of outputs. All others but the self-similarity of queries need k, and not v."""
NO_K, NO_V = "the capture has no k, and maps are of q and k", "the capture has no v, and outputs are of v"


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
            yield Finding.skipped(measure, NO_K)


def without_v(finding: Finding) -> Finding:
    """Return a finding, skipped if it is of outputs."""
    if finding.measure not in NEED_V or finding.value is None:
        return finding
    return replace(finding, value=None, lo=None, hi=None, status="skipped", reason=NO_V)
