"""What differs between two measurements of a method besides the time: what got worse, and what is only shown."""

from __future__ import annotations

from attnbench.results.layers import Mean

_ATTRIBUTES = ("engine", "settings", "engine_version", "baseline", "inputs")
_UNSTABLE = "unstable"
_MEMORY = "peak_extra_mib"
_VERIFIED = ("density", "approximation_error", "numerical_error")
"""Figures without which nobody knows what a latency is the latency of."""


def worse(a: Mean, b: Mean) -> list[str]:
    """Say what got worse besides the time. What is left of noise in these figures is below the limits here."""
    found = []
    for name, value, factor, least in (
        ("density", Mean.mean_of, 1.01, 1e-6),
        ("approximation_error", Mean.mean_of, 1.05, 1e-6),
        ("numerical_error", Mean.largest, 3.0, 1e-6),
        (_MEMORY, Mean.largest, 1.10, 32.0),  # on a CPU, runs of the same code differed by 19 MiB
    ):
        before, after = value(a, name), value(b, name)
        if before is None:
            continue
        if after is None and name in _VERIFIED:
            found.append(f"{name.replace('_', ' ')} {before:.3g} in A, not known in B")
        elif after is not None and after > max(factor * before, before + least):
            found.append(f"{name.replace('_', ' ')} {before:.3g} in A, {after:.3g} in B")
    if a.stability is not None and b.stability is None:
        found.append(f"{a.stability} in A, not known in B")
    elif b.stability == _UNSTABLE and a.stability not in (_UNSTABLE, None):
        found.append(f"{a.stability} in A, {b.stability} in B")
    return found


def attributes(a: Mean, b: Mean) -> tuple[str, ...]:
    """Say what differs and makes neither another cell nor a worse one."""
    pairs = [(name, shared(a, name), shared(b, name)) for name in _ATTRIBUTES]
    if a.stability is not None and b.stability not in (_UNSTABLE, None):
        pairs.append(("stability", a.stability, b.stability))
    if b.verdict == "ok" and a.largest(_MEMORY) is not None and b.largest(_MEMORY) is None:
        pairs.append(("peak memory", "known", "not known"))
    return tuple(f"{name}: {before} in A, {after} in B" for name, before, after in pairs if before != after)


def shared(mean: Mean, name: str) -> object:
    """Return the value of a column that all kinds of layers have, or all of their values in words."""
    values = list(dict.fromkeys(getattr(row, name) for row in mean.members))
    return values[0] if len(values) == 1 else ", ".join(map(str, values))
