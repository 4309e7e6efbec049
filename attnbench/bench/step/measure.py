"""Time a whole transformer step of Wan: with the model's own attention, with each method, and with none."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attnbench.bench.profile.call import Profile
from attnbench.bench.rounds import interleave
from attnbench.bench.step.case import StepCase
from attnbench.bench.step.model import StepModel
from attnbench.bench.step.variants import (
    Variant,
    as_graphs,
    dense_baseline,
    no_attention,
    own_attention,
    with_method,
)
from attnbench.graphs import forget_graphs, refuse_state
from attnbench.kernels.errors import BadInput
from attnbench.machine.device import device_name, dtype_name
from attnbench.machine.stopwatch import Stopwatch
from attnbench.methods import get_method, make_settings
from attnbench.methods.entries import Entry, as_entries
from attnbench.report.words import differing_settings
from attnbench.results.intervals import median_interval
from attnbench.results.records.steps import GRAPHS, StepRecord
from attnbench.results.run import NoProgress, Progress
from attnbench.results.speedups import Ratio, Timings

Observer = Callable[[str, Callable[[], object], Callable[[], None], float], Profile | None]
"""Takes a variant's name, its step, what clears the step's gradients, and the median of its samples in milliseconds."""


def measure_step(
    methods: Sequence[Entry] | Mapping[str, Mapping[str, Any]],
    case: StepCase,
    *,
    run_id: str = "",
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> list[StepRecord]:
    """Measure one step of a Wan transformer with random weights, text cross-attention included.

    Everything is timed in interleaved rounds: the model as it is, ``full`` by the fastest engine, the methods, and the
    model with its self-attention passed by. Weights are random, so densities of methods that select by the data are not
    those of a trained model; look at the records' ``density``.

    Args:
        methods: with their settings; a mapping gives settings by method.
        case: what the step is a step of.
        run_id: of the run that the records belong to.
        observe: profiles a step with its attention in place; called for each once all rounds are done.
        progress: told what is worked on.

    Returns:
        one record for each kind of self-attention, the dense ones first.

    Raises:
        BadInput: for methods or settings that cannot be used.
        Unsupported: without diffusers, or if an engine cannot serve a method. All are tried before the first sample.
    """
    entries: Sequence[Entry] = as_entries(methods)
    check_methods(entries, graphs=case.graphs)
    told = progress or NoProgress()
    told.step(f"Wan {case.size} with random weights", 0, 1, None)
    return measure_model(
        entries, StepModel.make(case), Stopwatch(case.torch_device), run_id=run_id, observe=observe, progress=told
    )


def check_methods(entries: Sequence[Entry], *, graphs: bool) -> None:
    """Check methods and settings before anything is made.

    Raises:
        BadInput: for those that do not exist, and with ``graphs`` for methods that keep a state.
    """
    for entry in entries:
        method = get_method(entry.method)
        make_settings(method, entry.settings)
        if graphs:
            refuse_state(method)


def measure_model(
    entries: Sequence[Entry], of: StepModel, stopwatch: Stopwatch, *, run_id: str, observe: Observer | None,
    progress: Progress,
) -> list[StepRecord]:  # fmt: skip
    """Measure one step of a model that is there already: see ``measure_step``."""
    variants, without = _variants(of, entries, stopwatch, progress), no_attention()
    _run_first([*variants, without], of, progress)
    _take_samples([*variants, without], of, stopwatch, progress)
    for variant in variants:
        progress.step(f"steps back to back with {variant.name}", 0, 1, None)
        variant.eager_ms = of.back_to_back(variant.swap, stopwatch, statistics.median(variant.step_ms) / 1e3)
    if of.case.graphs:
        forget_graphs()
    profiles = {} if observe is None else _profiles(variants, of, observe)
    shared = _shared_fields(of, stopwatch, variants[:2], without, run_id)
    baseline = next(variant for variant in variants if variant.name == shared["baseline"])
    return [
        _record(variant, baseline, shared | of.facts(variant.name), profiles.get(variant.name)) for variant in variants
    ]


def _variants(of: StepModel, methods: Sequence[Entry], stopwatch: Stopwatch, progress: Progress) -> list[Variant]:
    """Return what is compared: the two dense kinds of attention, and the methods."""
    progress.step("dense engines", 0, 1, None)
    variants = [own_attention(of), dense_baseline(of, stopwatch)]
    for entry in methods:
        progress.step(f"plans of {entry.method}", 0, 1, None)
        variants.append(with_method(of, entry.method, entry.settings))
        if of.case.graphs:
            variants.append(as_graphs(of, variants[-1], entry.method, entry.settings))
    return _told_apart(variants)


def _told_apart(variants: list[Variant]) -> list[Variant]:
    """Return variants whose names differ: those of one method and engine say which settings they differ by."""
    settings = {name: [each.settings for each in variants if each.name == name] for name in {v.name for v in variants}}
    return [
        dataclasses.replace(
            each,
            name=f"{each.name} {differing_settings(each.settings, settings[each.name])}".strip()
            + (GRAPHS if each.graphs else ""),
        )
        for each in variants
    ]


def _run_first(variants: Sequence[Variant], of: StepModel, progress: Progress) -> None:
    """Run everything once: kernels are compiled, and what cannot run fails before the first sample."""
    for place, variant in enumerate(variants):
        progress.step(f"first step with {variant.name}", place, len(variants), None)
        of.first(variant.name, variant.swap)
        if variant.alone is not None:
            variant.alone()


def _take_samples(variants: Sequence[Variant], of: StepModel, stopwatch: Stopwatch, progress: Progress) -> None:
    for turn in interleave(variants, of.case.rounds):
        variant = turn.item
        progress.step(f"{turn.label}: {variant.name}", turn.done, turn.total, None)
        variant.step_ms.append(of.sample(variant.name, variant.swap, stopwatch))
        if variant.alone is not None:
            variant.alone_ms.append(stopwatch.time(variant.alone, warm=False).cold_ms)


def _profiles(variants: Sequence[Variant], of: StepModel, observe: Observer) -> dict[str, Profile]:
    found = {}
    for variant in variants:
        if variant.graphs:  # replays have no phases
            continue
        with variant.swap(of.model):
            profile = observe(variant.name, of.step, of.clear, statistics.median(variant.step_ms))
        of.clear()
        if profile is not None:
            found[variant.name] = profile
    return found


def _shared_fields(
    of: StepModel, stopwatch: Stopwatch, dense: Sequence[Variant], without: Variant, run_id: str
) -> dict[str, Any]:
    """Return the fields that all records of a step have in common."""
    case = of.case
    baseline = min(dense, key=lambda variant: statistics.median(variant.step_ms))
    share = share_removed(baseline.step_ms, without.step_ms)
    return {
        "run_id": run_id,
        "size": case.size,
        "grid": str(case.token_grid),
        "text_tokens": case.text_tokens,
        "batch": case.batch,
        "layers": len(of.qkv),
        "dtype": dtype_name(case.torch_dtype),
        "device": device_name("cuda" if case.torch_device.type == "cuda" else "cpu"),
        "direction": case.direction,
        "checkpointing": case.checkpointing,
        "engine_asked": case.engine,
        "heads": of.qkv[0][0].shape[1],
        "seed": case.seed,
        "timer": stopwatch.timer,
        "rounds": case.rounds,
        "baseline": baseline.name,
        "without_ms": statistics.median(without.step_ms),
        "share": share.value,
        "share_lo": share.lo,
        "share_hi": share.hi,
        "share_alone": statistics.median(baseline.alone_ms) / statistics.median(baseline.step_ms),
    }


def _record(variant: Variant, baseline: Variant, shared: Mapping[str, Any], profile: Profile | None) -> StepRecord:
    step, alone = median_interval(variant.step_ms), median_interval(variant.alone_ms)
    step_speedup = Timings(variant.step_ms, baseline.step_ms).speedup()
    attention_speedup = statistics.median(baseline.alone_ms) / alone.median
    return StepRecord(
        **shared,
        name=variant.name,
        settings=variant.settings,
        density=variant.density,
        graphs=variant.graphs,
        step_ms=step.median,
        step_lo_ms=step.lo,
        step_hi_ms=step.hi,
        step_eager_ms=variant.eager_ms,
        attention_ms=alone.median,
        attention_lo_ms=alone.lo,
        attention_hi_ms=alone.hi,
        step_speedup=step_speedup.value,
        step_speedup_lo=step_speedup.lo,
        step_speedup_hi=step_speedup.hi,
        attention_speedup=attention_speedup,
        predicted_speedup=amdahl(shared["share"], attention_speedup),
        phases_ms={} if profile is None else phases_of(profile),
        complaint="" if profile is None else profile.complaint,
        samples_ms=variant.step_ms,
    )


def phases_of(profile: Profile) -> dict[str, float]:
    """Return the median milliseconds of each pass and phase of a step, as "fwd attend"; together they are the step."""
    return {f"{phase.pass_} {phase.phase}": phase.time.median for phase in profile.phases if phase.parent is None}


def amdahl(share: float, speedup: float) -> float:
    """Return the speed-up of a whole of which ``share`` becomes ``speedup`` times as fast and the rest stays.

    Raises:
        BadInput: for a speed-up of 0 or below.
    """
    if not speedup > 0:
        raise BadInput(f"speedup is {speedup!r}; it must be above 0")
    return 1 / (1 - share + share / speedup)


def share_removed(whole: list[float], without: list[float]) -> Ratio:
    """Return 1 - without / whole of the medians, paired by round: the share of what was left out.

    Noise can make it negative where the share is small.
    """
    left = Timings(whole, without).speedup()
    return Ratio(1 - left.value, 1 - left.hi, 1 - left.lo)
