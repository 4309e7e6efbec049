"""What is asked of every method, as checks that any registered one can be put through (docs/adding-a-method.md).

Each check is a function of a ``Subject``. It returns in a few words what it looked at, raises ``Failed`` with the
reason, or raises ``Skipped`` where it does not apply. The method makes every plan anew: none is remembered.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from attnbench import api
from attnbench.bench.over_ranks import compare
from attnbench.bench.selection import LEAST_MOVE, SelectionCheck, same_blocks
from attnbench.bench.stability import GIVEN_CALLS, check_stability
from attnbench.bench.states import warmed_up
from attnbench.bench.sweep.knobs import density_setting, turn_method
from attnbench.bench.verify import TwinSpec, check_twin, twin_case
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.kernels.told import in_one_line
from attnbench.methods import Call, Method, make_settings
from attnbench.methods.per_head import repeated_for_heads
from attnbench.methods.planning import forget_plans
from attnbench.methods.recipe import has_dense_text

LAYOUTS = (
    Layout(Grid(1, 1, 1)),
    Layout(Grid(1, 1, 7), (1, 0)),
    Layout(Grid(5, 1, 1)),
    Layout(Grid(1, 6, 1), (0, 2)),
    Layout(Grid(2, 3, 4)),
    Layout(Grid(3, 5, 7), (2, 1)),
    Layout(Grid(4, 6, 8)),
    Layout(Grid(5, 7, 11), (0, 3)),
)
"""Small layouts: one token, one frame, lines, primes, even sides, with text before and after and without."""

LARGE = (Layout(Grid(21, 30, 52)), Layout(Grid(21, 45, 80), (226, 0)), Layout(Grid(13, 17, 19), (0, 256)))
"""Large layouts, for which only settings are resolved and twins are made."""

LAYERS = 30
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 16
MOST_TWIN_TOKENS = 4096

MOST_STABILITY_TOKENS = 128
RANKS = 3
ROUNDING = 1e-5
"""How far rounding may move a float32 result of a case that small, as relative L2 error."""

Verdict = Literal["pass", "fail", "skip"]


class Failed(Exception):
    """The method does not do what is asked of it."""


class Skipped(Exception):
    """The check does not apply to the method."""


@dataclass(frozen=True)
class Outcome:
    """What a check found: a name, the verdict, and what was looked at or why it failed."""

    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True)
class Subject:
    """A method under examination: the settings given for it, the seed of q and k, and how often a call is repeated.

    Settings of one value a head may have any number of values: they are repeated, or cut, for the heads of each case.
    """

    method: Method
    given: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    stability_calls: int = GIVEN_CALLS

    def settings(self, layout: Layout, heads: range = range(HEADS)) -> Any:
        """Return the settings resolved for a layout, those of one value a head for some of the query heads."""
        resolved = self.method.resolve(make_settings(self.method, self.given), layout)
        return repeated_for_heads(self.method, resolved, heads)

    def layers(self, layout: Layout) -> tuple[int, ...]:
        """Return one layer of each kind that differs."""
        return self.method.distinct_layers(self.settings(layout), LAYERS)

    def inputs(
        self, layout: Layout, *, batch: int = 1, heads: int = HEADS, kv_heads: int = KV_HEADS, other: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return random q and k, float32 on the CPU; another number ``other`` gives others."""
        generator = torch.Generator().manual_seed(self.seed + 7919 * other)
        q = torch.randn(batch, heads, layout.tokens, HEAD_DIM, generator=generator)
        return q, torch.randn(batch, kv_heads, layout.tokens, HEAD_DIM, generator=generator)

    def steady(self, q: Tensor, k: Tensor, layout: Layout, layer: int, first: int = 0) -> dict[str, Any]:
        """Return the step and the state of a call that has the steps before it behind it; nothing without a cycle.

        The query heads in q are those from ``first`` on.
        """
        settings = self.settings(layout, _heads_of(q, first))
        cycle = self.method.cycle_of(settings, layer)
        if cycle is None:
            return {}
        values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        arguments = {"grid": layout.grid, "text": layout.text, "layer": layer, **values}
        return {
            "step": cycle.steady,
            "state": warmed_up(self.method, cycle, arguments, q, k, k.flip(-1).clone(), "reference"),
        }

    def plan(self, q: Tensor, k: Tensor, layout: Layout, layer: int = 0, first: int = 0) -> Plan:
        """Return the method's plan, made anew and checked. The query heads in q are those from ``first`` on.

        Raises:
            Failed: if it is no plan for these tensors.
        """
        with torch.no_grad():
            v = k.flip(-1) if self.method.needs_v else None
            settings, steady = self.settings(layout, _heads_of(q, first)), self.steady(q, k, layout, layer, first)
            plan = self.method.plan(settings, q, k, Call(layout, layer, v=v, **steady))
        if not isinstance(plan, Plan):
            raise Failed(f"planned a {type(plan).__name__}; it must return an attnbench Plan")
        made, wanted = (plan.layout, plan.batch, plan.heads), (layout, q.shape[0], q.shape[1])
        if made != wanted:
            raise Failed(f"the plan is for {made[0]}, batch {made[1]} and {made[2]} heads, not for {wanted}")
        plan.check()
        return plan


def _heads_of(q: Tensor, first: int) -> range:
    return range(first, first + q.shape[1])


@contextmanager
def at(layout: Layout, layer: int | None = None) -> Iterator[None]:
    """Say of an error inside where it happened; every kind of error is a failure of the method."""
    text = f" with text {layout.text[0]}+{layout.text[1]}" if layout.text != (0, 0) else ""
    where = f"grid {layout.grid}{text}" + ("" if layer is None else f", layer {layer}")
    try:
        yield
    except Failed as error:
        raise Failed(f"{where}: {error}") from error
    except (Skipped, KeyboardInterrupt):
        raise
    except Exception as error:
        raise Failed(f"{where}: {in_one_line(error)}") from error


def cases(subject: Subject) -> list[tuple[Layout, int]]:
    """Return the small layouts with each distinct layer; layouts whose grid the given settings refuse are left out.

    Raises:
        Failed: if the defaults are refused anywhere, or the given settings everywhere.
    """
    found, refusal = [], ""
    for layout in LAYOUTS:
        with at(layout):
            try:
                found += [(layout, layer) for layer in subject.layers(layout)]
            except BadInput as error:
                refusal = str(error)
                if not subject.given:
                    raise Failed(f"the default settings are refused: {error}") from error
    if not found:
        raise Failed(f"the settings are refused on every small grid: {refusal}")
    return found


# For one layout and layer


def text_stays_dense(subject: Subject, layout: Layout, layer: int = 0) -> None:
    """Text tokens keep all keys and are kept by all. The video's pairs are those without text, unless text competes.

    Queries that keep no key at all are left out: a method may copy other outputs there, or none. So is a plan that
    keeps nothing at all, where ``finish`` makes the whole output.

    Raises:
        Failed: if they are not.
    """
    q, k = subject.inputs(layout)
    mask = subject.plan(q, k, layout, layer).token_mask()
    if subject.method.finish is not None and not bool(mask.any()):
        return
    video = torch.zeros(layout.tokens, dtype=torch.bool)
    video[layout.video] = True
    if not bool((mask[..., ~video] | ~mask.any(-1, keepdim=True)).all()):
        raise Failed("a query drops a text token")
    if not bool(mask[..., ~video, :].all()):
        raise Failed("a text token drops a key")
    if subject.method.text_competes:
        return
    alone = subject.plan(q[:, :, layout.video], k[:, :, layout.video], Layout(layout.grid), layer)
    _require_same(mask[:, :, video][..., video], alone.token_mask(), "the video's pairs are others than without text")


def heads_are_independent(subject: Subject, layout: Layout, layer: int = 0) -> None:
    """A head of a batch item keeps what it keeps alone; of a method whose heads depend on one another, the batch item.

    Raises:
        Failed: if it does not.
    """
    q, k = subject.inputs(layout, batch=2)
    mask = subject.plan(q, k, layout, layer).token_mask()
    for b in range(2):
        if not subject.method.heads_are_independent:
            alone = subject.plan(q[b : b + 1], k[b : b + 1], layout, layer)
            _require_same(mask[b], alone.token_mask()[0], f"batch item {b} keeps others than alone")
            continue
        for h in range(HEADS):
            kv = h * KV_HEADS // HEADS
            alone = subject.plan(q[b : b + 1, h : h + 1], k[b : b + 1, kv : kv + 1], layout, layer, h)
            _require_same(mask[b, h], alone.token_mask()[0, 0], f"batch item {b}, head {h} keeps others than alone")


def agrees_in_float64(subject: Subject, layout: Layout, layer: int = 0) -> None:
    """A head's plan is that of the same values in float64, but for what rounding explains.

    Where rounding moves tokens from block to block, pairs of tokens are compared. What changes if q and k move as
    little as rounding moves what is computed of them is a near tie, which may fall either way.

    Raises:
        Failed: if it is not.
    """
    q, k = subject.inputs(layout)
    plan = subject.plan(q, k, layout, layer)
    group = HEADS // KV_HEADS
    wide = [(q[:, h : h + 1].double(), k[:, h // group : h // group + 1].double()) for h in range(HEADS)]
    first, own = list(range(HEADS)), [0] * HEADS  # which heads each has, and where its own is among them
    if not subject.method.heads_are_independent:
        wide, first, own = [(q.double(), k.double())] * HEADS, own, first
    exact = [subject.plan(*wide[h], layout, layer, first[h]) for h in range(HEADS)]
    found = _Difference()
    for h in range(HEADS):
        found.add(plan, h, exact[h], own[h])
    if found.check().problem is None:
        return
    generator, ties = torch.Generator().manual_seed(subject.seed), _Difference()
    for h in range(HEADS):
        moved_q, moved_k = (
            x * (1 + LEAST_MOVE * torch.randn(x.shape, generator=generator, dtype=torch.float64)) for x in wide[h]
        )
        ties.add(subject.plan(moved_q, moved_k, layout, layer, first[h]), own[h], exact[h], own[h])
    if problem := found.check(ties.of_tokens if found.recut else ties.of_blocks).problem:
        raise Failed(problem)


@dataclass
class _Difference:
    """In how many pairs of blocks, and of tokens, plans differ from those in float64, head by head."""

    of_blocks: int = 0
    of_tokens: int = 0
    block_pairs: int = 0
    token_pairs: int = 0
    recut: bool = False

    def add(self, plan: Plan, head: int, exact: Plan, other: int) -> None:
        """Compare a head of a plan with one of the other."""
        differ = plan.token_mask()[0, head] ^ exact.token_mask()[0, other]
        self.of_tokens += int(differ.sum())
        self.token_pairs += differ.numel()
        if same_blocks(plan, exact, (0, head), (0, other)):
            keep = plan.keep_of(0, head)
            self.of_blocks += int((keep ^ exact.keep_of(0, other)).sum())
            self.block_pairs += keep.numel()
        else:
            self.recut = True

    def check(self, near_ties: int = 0) -> SelectionCheck:
        """Return the comparison in tokens if a head's blocks differ, otherwise in blocks."""
        if self.recut:
            return SelectionCheck(self.of_tokens, self.token_pairs, of_tokens=True, near_ties=near_ties)
        return SelectionCheck(self.of_blocks, self.block_pairs, near_ties=near_ties)


# For the method as a whole


def _card(subject: Subject) -> str:
    method = subject.method
    for name, text in (("summary", method.summary), ("source.title", method.source.title)):
        if not text.strip() or "\n" in text:
            raise Failed(f"{name} is {text!r}; it must be one line")
    if not method.source.url.startswith(("https://", "http://")):
        raise Failed(f"source.url is {method.source.url!r}; it must be the address of the publication")
    return f"{method.source.title}, {method.source.url}"


def _settings(subject: Subject) -> str:
    method = subject.method
    layouts = list(dict.fromkeys(layout for layout, _ in cases(subject))) + list(LARGE)
    for layout in layouts:
        with at(layout):
            resolved = subject.settings(layout)
            if method.resolve(resolved, layout) != resolved:
                raise Failed(f"resolve changes what it returned, {resolved}, to {method.resolve(resolved, layout)}")
            stored = json.dumps(dataclasses.asdict(resolved), allow_nan=False)
            read = make_settings(method, json.loads(stored))
            if read != resolved or hash(read) != hash(resolved):
                raise Failed(f"{resolved} is {read} after it was stored as JSON; lists must do for tuples")
    return f"resolved once and for all on {len(layouts)} grids, and the same after JSON"


def _grids(subject: Subject) -> str:
    found = cases(subject)
    for layout, layer in found:
        with at(layout, layer):
            subject.plan(*subject.inputs(layout, batch=2), layout, layer)
    kinds = len({layer for _, layer in found})
    return f"{len({layout for layout, _ in found})} grids, {kinds} kind{'s' if kinds > 1 else ''} of layers"


def _text(subject: Subject) -> str:
    found = [(layout, layer) for layout, layer in cases(subject) if layout.text != (0, 0)]
    if not all(has_dense_text(subject.settings(layout)) for layout, _ in found):
        raise Skipped("text_dense is false: text is ordinary tokens")
    for layout, layer in found:
        with at(layout, layer):
            text_stays_dense(subject, layout, layer)
    same = "; it competes with the video" if subject.method.text_competes else ", and the video as without it"
    return f"dense{same}, in {len(found)} cases"


def _layers(subject: Subject) -> str:
    layout = _middle(subject)
    with at(layout):
        for count in (1, 2, 3, LAYERS):
            kinds = subject.method.distinct_layers(subject.settings(layout), count)
            if not kinds or len(set(kinds)) < len(kinds) or not all(0 <= layer < count for layer in kinds):
                raise Failed(f"distinct_layers of {count} layers is {kinds}; it must name some of them, each once")
            _require_stand_ins(subject, layout, count, kinds)
    kinds = subject.layers(layout)
    if subject.method.draws_by_layer:
        return "alike but for what it draws" if len(kinds) == 1 else _named_kinds(kinds)
    q, k = subject.inputs(layout)
    stand_ins = subject.method.stand_ins(subject.settings(layout), LAYERS)
    masks = {layer: subject.plan(q, k, layout, layer).token_mask() for layer in {stand_ins[each] for each in _SOME}}
    for layer in _SOME:
        first = stand_ins[layer]
        alone = f"names layer {first} alone" if len(kinds) == 1 else f"lets layer {first} stand for it"
        with at(layout, layer):
            mask = masks[first] if layer == first else subject.plan(q, k, layout, layer).token_mask()
            _require_same(mask, masks[first], f"keeps others than layer {first}, and distinct_layers {alone}")
    return "all alike" if len(kinds) == 1 else _named_kinds(kinds)


_SOME = (1, 2, 3, 7, LAYERS - 1)
"""Layers that are compared with those that stand for them."""


def _named_kinds(kinds: Sequence[int]) -> str:
    return f"{len(kinds)} kinds: {', '.join(map(str, kinds))}"


def _require_stand_ins(subject: Subject, layout: Layout, count: int, kinds: Sequence[int]) -> None:
    method = subject.method
    if method.alike is None:
        return
    alike = method.alike(subject.settings(layout), count)
    if len(alike) != count or set(alike) != set(kinds):
        raise Failed(f"alike of {count} layers is {alike}; it must name for each layer one of distinct_layers, {kinds}")


def _repeats(subject: Subject) -> str:
    found = cases(subject)
    for layout, layer in found:
        with at(layout, layer):
            first, second = (subject.plan(*subject.inputs(layout), layout, layer).token_mask() for _ in range(2))
            _require_same(first, second, "two plans for the same q and k differ")
    return f"the same plan twice, in {len(found)} cases"


def _ties(subject: Subject) -> str:
    found = cases(subject)
    for layout, layer in found:
        with at(layout, layer):
            q, k = subject.inputs(layout)
            for name, queries, keys in (
                ("q and k are 0", q * 0, k * 0),
                ("all keys are equal", q, k[:, :, :1].expand_as(k)),
                ("keys repeat in pairs", q, k[:, :, torch.arange(layout.tokens) // 2]),
            ):
                first, second = (subject.plan(queries, keys, layout, layer).token_mask() for _ in range(2))
                _require_same(first, second, f"where {name}, two plans differ")
    return f"equal scores give the same plan, in {3 * len(found)} cases"


def _heads(subject: Subject) -> str:
    found = cases(subject)
    for layout, layer in found:
        with at(layout, layer):
            heads_are_independent(subject, layout, layer)
    what = "each as alone" if subject.method.heads_are_independent else "each batch item as alone, but not each head"
    return f"{what}, with {KV_HEADS} KV heads for {HEADS} heads, in {len(found)} cases"


def _ranks(subject: Subject) -> str:
    method, known = subject.method, cases(subject)
    can = {"ulysses": method.heads_are_independent, "allgather": method.plans_shards}
    if not any(can.values()):
        raise Skipped("its heads depend on one another, and it does not plan for shards, as it says")
    layout = next((each for each, _ in reversed(known) if each.tokens <= MOST_STABILITY_TOKENS), known[0][0])
    ranks = min(RANKS, layout.tokens)
    settings = subject.settings(layout)
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    for layer in subject.layers(layout):
        with at(layout, layer):
            if can["allgather"] and method.finishes(settings, Call(layout, layer)):
                raise Failed("plans_shards is True, and finish would need all queries: ranks cannot share them")
            q, k = (x.double() for x in subject.inputs(layout))
            steady = subject.steady(q, k, layout, layer)
            for way in (way for way in can if can[way]):
                problem = compare(
                    method, values, q, k, k.flip(-1).contiguous(), layout, layer, steady, parallel=way, ranks=ranks
                )
                if problem:
                    raise Failed(f"by {way}, {problem}")
    return f"{ranks} ranks give what one process gives, by {' and '.join(way for way in can if can[way])}"


def _inputs(subject: Subject) -> str:
    found = cases(subject)
    for layout, layer in found:
        with at(layout, layer):
            q, k = subject.inputs(layout)
            kept, versions = (q.clone(), k.clone()), (q._version, k._version)
            mask = subject.plan(q, k, layout, layer).token_mask()
            if not (torch.equal(q, kept[0]) and torch.equal(k, kept[1])) or versions != (q._version, k._version):
                raise Failed("plan writes into q or k")
            q, k = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k))
            _require_same(subject.plan(q, k, layout, layer).token_mask(), mask, "other strides give another plan")
    return f"left as they are, whatever their strides, in {len(found)} cases"


def _dtypes(subject: Subject) -> str:
    found = cases(subject)
    for layout, layer in found:
        with at(layout, layer):
            agrees_in_float64(subject, layout, layer)
            q, k = subject.inputs(layout)
            for dtype in (torch.bfloat16, torch.float16):
                subject.plan(q.to(dtype), k.to(dtype), layout, layer)
    return f"float32 as float64, and half precision planned, in {len(found)} cases"


def _static(subject: Subject) -> str:
    found, differ = cases(subject), False
    for layout, layer in found:
        with at(layout, layer):
            q, k = subject.inputs(layout)
            mask = subject.plan(q, k, layout, layer).token_mask()
            for others in (subject.inputs(layout, other=1), (q * 0, k * 0), (q.double(), k.double())):
                same = torch.equal(subject.plan(*others, layout, layer).token_mask(), mask)
                if not same and not subject.method.depends_on_qk:
                    raise Failed("depends_on_qk is False, and another q and k, or dtype, give another plan")
                differ |= not same
    if not subject.method.depends_on_qk:
        return "the plan is the same whatever q and k"
    if differ:
        raise Skipped("the plan depends on q and k")
    raise Skipped("depends_on_qk is True, but no plan differed: False would let the plan be made once")


def _twin(subject: Subject) -> str:
    if subject.method.twin is None:
        raise Skipped("none; verification tries the settings on a small part of the grid")
    sizes = []
    for layout in LARGE:
        for layer in subject.layers(layout):
            with at(layout, layer):
                settings, small = twin_case(subject.method, subject.settings(layout), layout, layer)
                if not isinstance(settings, subject.method.settings) or not isinstance(small, Layout):
                    raise Failed(f"twin returned {settings!r} and {small!r}; it must be settings and a layout")
                if small.tokens > MOST_TWIN_TOKENS:
                    raise Failed(f"the twin has {small.tokens:,} tokens; it must have at most {MOST_TWIN_TOKENS:,}")
                if [n > 0 for n in small.text] != [n > 0 for n in layout.text]:
                    raise Failed(f"the twin has text {small.text}; it must have some exactly where the case has")
                subject.method.resolve(settings, small)
                sizes.append(small.tokens)
    return f"of {len(sizes)} large cases, with {min(sizes)} to {max(sizes)} tokens"


def _output(subject: Subject) -> str:
    worst, count = 0.0, 0
    for layout in LARGE:
        for layer in subject.layers(layout):
            with at(layout, layer):
                spec = TwinSpec(
                    subject.method, subject.settings(layout), layout, layer, None, 1, HEADS, KV_HEADS, HEAD_DIM,
                    torch.float32, torch.device("cpu"), "reference", subject.method.has_gradient, subject.seed,
                )  # fmt: skip
                found = check_twin(spec)
                if found.problem:
                    raise Failed(found.problem)
                worst, count = max(worst, found.worst), count + 1
    return f"{_tensors(subject)} of {count} small cases as exact as rounding allows: {worst:.2g} of it at worst"


def _stability(subject: Subject) -> str:
    found: set[str] = set()
    known = cases(subject)
    layout = next((each for each, _ in reversed(known) if each.tokens <= MOST_STABILITY_TOKENS), known[0][0])
    layers = subject.layers(layout)
    resolved = subject.settings(layout, range(2))
    settings = {field.name: getattr(resolved, field.name) for field in dataclasses.fields(resolved)}
    for layer in layers:
        with at(layout, layer):
            q, k = subject.inputs(layout, heads=2, kv_heads=1)
            with torch.no_grad():
                steady = subject.steady(q, k, layout, layer)
            graded = subject.method.has_gradient
            leaves = [x.requires_grad_(graded) for x in (q, k, k.flip(2).clone())]

            def call(
                leaves: list[Tensor] = leaves, layer: int = layer, graded: bool = graded,
                steady: dict[str, Any] = steady,
            ) -> list[Tensor]:  # fmt: skip
                forget_plans()
                output = api.attention(
                    *leaves, method=subject.method, grid=layout.grid, text=layout.text, layer=layer,
                    step=steady.get("step"), state=steady.get("state"), engine="reference", **settings,
                )  # fmt: skip
                gradients = torch.autograd.grad(output, leaves, torch.ones_like(output)) if graded else ()
                return [output.detach(), *gradients]

            check = check_stability(
                call(), call, [ROUNDING] * (4 if graded else 1), calls=subject.stability_calls, seconds=0.0
            )
            if check.problem:
                raise Failed(check.problem)
            found.add(check.found)
    kinds = "" if len(layers) == 1 else f" for each of {len(layers)} kinds of layers"
    same = "the same bits" if found == {"deterministic"} else "the same but for rounding"
    return f"{_tensors(subject)} of {subject.stability_calls} calls on one small input{kinds}: {same}"


def _tensors(subject: Subject) -> str:
    return "output and gradients" if subject.method.has_gradient else "the output"


def _density(subject: Subject) -> str:
    setting = density_setting(subject.method)
    if setting is None:
        raise Skipped("no density setting: a sweep over density refuses the method")
    layout, wanted = Layout(Grid(6, 10, 16)), (0.1, 0.3, 0.6, 1.0)
    given = {name: value for name, value in subject.given.items() if name not in setting.names}
    with at(layout):
        densities = []
        for density in wanted:
            turned = dataclasses.replace(subject, given=turn_method(subject.method, given, layout, density))
            q, k = turned.inputs(layout, heads=1, kv_heads=1)
            plans = [turned.plan(q, k, layout, layer) for layer in turned.layers(layout)]
            densities.append(sum(plan.density for plan in plans) / len(plans))
        shown = ", ".join(f"{density:g} gives {got:.2g}" for density, got in zip(wanted, densities, strict=True))
        if densities != sorted(densities):
            raise Failed(f"more is asked for and less is kept: {shown}")
    return shown


def _middle(subject: Subject) -> Layout:
    """Return a layout of the middle size that the settings take."""
    layouts = list(dict.fromkeys(layout for layout, _ in cases(subject)))
    return layouts[-1]


def _require_same(mask: Tensor, other: Tensor, problem: str) -> None:
    if not torch.equal(mask, other):
        raise Failed(f"{problem}: {int((mask ^ other).sum()):,} of {mask.numel():,} pairs differ")


CHECKS: Mapping[str, Callable[[Subject], str]] = MappingProxyType(
    {
        "source": _card, "settings": _settings, "any grid": _grids, "text": _text, "layers": _layers,
        "determinism": _repeats, "ties": _ties, "batch and heads": _heads, "ranks": _ranks, "q and k": _inputs,
        "dtypes": _dtypes, "static": _static, "twin": _twin, "output": _output, "stability": _stability,
        "density": _density,
    }
)  # fmt: skip
"""The checks by name, in the order in which they are made."""


def run_check(name: str, subject: Subject) -> Outcome:
    """Make one check. What the method raises is a failure, with the reason."""
    try:
        return Outcome(name, "pass", CHECKS[name](subject))
    except Skipped as reason:
        return Outcome(name, "skip", str(reason))
    except Failed as problem:
        return Outcome(name, "fail", str(problem))
    except Exception as error:
        return Outcome(name, "fail", in_one_line(error))


def run_checks(subject: Subject) -> Iterator[Outcome]:
    """Make all checks, one after another."""
    return (run_check(name, subject) for name in CHECKS)
