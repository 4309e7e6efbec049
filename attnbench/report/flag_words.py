"""The words of flags, each in one place: on badges, in sentences about several latencies, and in verdicts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FlagWords:
    """How a flag is told.

    Attributes:
        name: the flag, as in tables.
        badge: a short word for it.
        meaning: what it says, as a clause that "for vmoba and moba" may follow.
        said: what the latency was, as a participle.
    """

    name: str
    badge: str
    meaning: str
    said: str


FLAG_WORDS = (
    FlagWords("power-capped", "capped", "the power cap held the clock down", "power-capped"),
    FlagWords("cpu-bound", "CPU-bound", "the CPU could not enqueue fast enough", "CPU-bound"),
    FlagWords(
        "slow-enqueue", "enqueue",
        "enqueuing takes longer than the call, but calls back to back take at most 10 % longer than the latency",
        "slow to enqueue, though not held up by it",
    ),
    FlagWords("busy-machine", "busy", "others used the machine", "disturbed by others on the machine"),
    FlagWords("unstable", "unstable", "samples spread or fall into two groups", "unstable"),
    FlagWords(
        "plain-torch", "plain torch", "plain torch ran in the place of a kernel, so the time says little",
        "run by plain torch",
    ),
    FlagWords(
        "unmatched", "other density", "the density is not the one that was asked for",
        "measured at another density than asked for",
    ),
    FlagWords(
        "replayed-video", "replayed", "the video is short and was played forward and back",
        "given a short video, played forward and back",
    ),
)  # fmt: skip
"""In the order in which they are told."""
