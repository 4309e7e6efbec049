"""What a whole transformer step leaves in a journal: one record for each kind of self-attention."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from attnbench.results.records.cells import ReadTimer, Record

GRAPHS = ", graphs"
"""How the name of a record of replays ends. What precedes it is the name of the method as it is."""


class StepRecord(Record):
    """A transformer step with one kind of self-attention, measured in the same rounds as the others of its run."""

    run_id: str = Field(description="start of the run, UTC, and four random digits")
    size: str = Field(description="size of the model, its weights random")
    grid: str = Field(description="T x H x W, as 21x30x52")
    text_tokens: int = Field(ge=1, description="tokens of the cross-attention")
    batch: int = Field(ge=1, description="sequences")
    layers: int = Field(ge=1, description="transformer blocks")
    heads: int | None = Field(default=None, ge=1, description="query heads; null in older journals: those of the size")
    dtype: str = Field(description="type of the weights")
    device: str = Field(description="name of the GPU or CPU")
    direction: Literal["fwd", "fwdbwd"] = Field(description="forward, or a training step without the optimizer")
    checkpointing: bool = Field(description="whether blocks ran forward once more in the backward pass")
    engine_asked: str = Field(description="the engine asked for; auto takes the first that serves")
    seed: int = Field(description="seed of weights and inputs")
    timer: ReadTimer = Field(description="clock that took the samples")
    rounds: int = Field(ge=1, description="samples of each figure")

    gpus: int | None = Field(
        default=None, ge=2, description="ranks that the tokens were spread over; null: one process"
    )
    parallel: str | None = Field(default=None, description="how the ranks shared attention, as ulysses")

    baseline: str = Field(description="name of the record with the fastest dense step")
    without_ms: float = Field(gt=0, description="the step with self-attention left out; projections and norms stay")
    share: float = Field(description="of self-attention in the baseline's step: 1 - without_ms / step_ms")
    share_lo: float = Field(description="lower end of the interval of share")
    share_hi: float = Field(description="upper end of the interval of share")
    share_alone: float = Field(description="the same from the other side: the baseline's attention_ms / step_ms")

    name: str = Field(description="own for the model's own attention, otherwise method/engine")
    graphs: bool = Field(default=False, description="whether each call of the method was the replay of a CUDA graph")
    settings: str = Field(description="canonical JSON of the method's settings")
    density: float = Field(ge=0, le=1, description="fraction of (query, key) pairs kept, mean over the layers")
    step_ms: float = Field(gt=0, description="median of the whole step, cold cache")
    step_lo_ms: float = Field(description="lower end of the interval of the median")
    step_hi_ms: float = Field(description="upper end of the interval of the median")
    step_eager_ms: float | None = Field(
        default=None,
        description="wall clock of a step among steps back to back; null over ranks, and for steps of a second or more",
    )
    attention_ms: float = Field(gt=0, description="self-attention of all layers by itself, on the model's q, k, v")
    attention_lo_ms: float = Field(description="lower end of the interval of the median")
    attention_hi_ms: float = Field(description="upper end of the interval of the median")
    step_speedup: float = Field(gt=0, description="the baseline's step over this one")
    step_speedup_lo: float = Field(description="lower end of the interval of step_speedup")
    step_speedup_hi: float = Field(description="upper end of the interval of step_speedup")
    attention_speedup: float = Field(gt=0, description="the baseline's self-attention over this one")
    predicted_speedup: float = Field(description="of the step, by Amdahl's law from share and attention_speedup")
    one_ms: float | None = Field(
        default=None, description="over ranks: median of the step in one process, in the same rounds"
    )
    exchange_ms: float | None = Field(
        default=None,
        description="over ranks: median of what attention's exchanges took on the rank that waited least; null for the "
        "model's own attention, whose exchanges are diffusers'",
    )
    sent_mib: float | None = Field(default=None, description="over ranks: the most that a rank sent in them")
    parallel_error: float | None = Field(
        default=None,
        description="over ranks: largest relative L2 difference from one process: of the output, of any layer's "
        "self-attention, or of all gradients",
    )
    phases_ms: dict[str, float] = Field(
        default_factory=dict,
        description="median of each pass and phase within the step under a profiler, as fwd attend; other is the rest",
    )
    complaint: str = Field(default="", description="why phases_ms are not to be trusted; empty if they are")
    samples_ms: list[float] = Field(description="every sample of the step, in the order taken")


def by_run(records: Iterable[StepRecord]) -> list[list[StepRecord]]:
    """Return the records of each run, in order."""
    runs: dict[str, list[StepRecord]] = {}
    for record in records:
        runs.setdefault(record.run_id, []).append(record)
    return list(runs.values())
