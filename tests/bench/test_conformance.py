"""A method that breaks one rule fails the check of that rule, with the reason; and `attnbench check` says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench import select
from attnbench.bench import conformance
from attnbench.bench.conformance import CHECKS, Outcome, Subject, run_check, run_checks
from attnbench.bench.selection import check_selection
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import Call, Method, Source, get_method
from attnbench.methods.kit import (
    BlockPattern,
    DensitySetting,
    Plan,
    as_ints,
    keep_text,
    partition_cuboids,
)


@dataclass(frozen=True)
class Frames:
    """Settings: how many frames before and after a query's own are kept, and two numbers that change nothing."""

    reach: int = 1
    pair: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        as_ints("reach", self.reach, low=0)
        object.__setattr__(self, "pair", as_ints("pair", self.pair, length=2))


def near_frames(call: Call, device: torch.device, reach: int) -> Tensor:
    frame = torch.arange(call.layout.grid.t, device=device)
    return ((frame[:, None] - frame).abs() <= reach)[None, None]


def framed(q: Tensor, call: Call, video: Tensor) -> Plan:
    """The plan that keeps pairs of frames, bool [B or 1, H or 1, T, T]."""
    grid = call.layout.grid
    partition = partition_cuboids(call.layout, (1, grid.h, grid.w), q.device)
    pattern = BlockPattern(partition.offsets, partition.offsets, keep_text(partition, video))
    return Plan(call.layout, q.shape[0], q.shape[1], pattern, partition.order, partition.order)


def plan(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    return framed(q, call, near_frames(call, q.device, settings.reach))


def twin(settings: Frames, layout: Layout, layer: int) -> tuple[Frames, Layout]:
    return settings, Layout(Grid(min(5, layout.grid.t), 2, 3), layout.few_text)


GOOD = Method(
    name="frames",
    summary="frames near the query's own",
    source=Source("Nobody's paper", "https://example.org"),
    settings=Frames,
    plan=plan,
    twin=twin,
    density_setting=DensitySetting(
        ("reach",), lambda settings, layout, density: {"reach": round(density * layout.grid.t) // 2}
    ),
    depends_on_qk=False,
)


def outcome_of(name: str, **changes: Any) -> Outcome:
    return run_check(name, Subject(replace(GOOD, **changes)))


def test_a_good_method_passes_every_check() -> None:
    outcomes = list(run_checks(Subject(GOOD, stability_calls=10)))
    assert [outcome.name for outcome in outcomes] == list(CHECKS)
    assert {(outcome.verdict, outcome.detail) for outcome in outcomes if outcome.verdict != "pass"} == set()


def heavy_frames(q: Tensor, k: Tensor, call: Call) -> Tensor:
    """A choice by q and k: frames whose mean score with a frame is above the median, and the own; head by head."""
    layout, group = call.layout, q.shape[1] // k.shape[1]
    t = layout.grid.t
    means = [x[:, :, layout.video].unflatten(2, (t, -1)).mean(3) for x in (q, k.repeat_interleave(group, 1))]
    scores = means[0] @ means[1].transpose(-1, -2)
    return (scores > scores.median()) | torch.eye(t, dtype=torch.bool)


def choosing(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keeps by the median over all heads, so heads depend on one another."""
    return framed(q, call, heavy_frames(q, k, call))


def choosing_by_item(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keeps by the median over the heads of each batch item."""
    return framed(q, call, torch.cat([heavy_frames(q[b : b + 1], k[b : b + 1], call) for b in range(q.shape[0])]))


def choosing_by_head(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Keeps what each head scores, of all queries: those of one process among several are too few."""
    group = q.shape[1] // k.shape[1]
    heads = [heavy_frames(q[:, h : h + 1], k[:, h // group : h // group + 1], call) for h in range(q.shape[1])]
    return framed(q, call, torch.cat(heads, 1))


def mixing(settings: Frames, call: Call, q: Tensor, k: Tensor, v: Tensor, output: Tensor) -> Tensor:
    """A branch in which heads see one another."""
    return output + output.mean(1, keepdim=True)


calls = itertools.count()


def restless(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    return framed(q, call, near_frames(call, q.device, next(calls) % 2))


def writing(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    q.mul_(1.0)
    return plan(settings, q, k, call)


def by_layer(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    return framed(q, call, near_frames(call, q.device, call.layer % 2))


def three_kinds(settings: Frames, layers: int) -> tuple[int, ...]:
    return tuple(range(min(3, layers)))


def dropping_text(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    n = call.layout.tokens
    offsets = torch.arange(n + 1)
    return Plan(call.layout, q.shape[0], q.shape[1], BlockPattern(offsets, offsets, torch.eye(n).bool()[None, None]))


def counting_text(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    return framed(q, call, near_frames(call, q.device, int(sum(call.layout.text) > 0)))


def only_even(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    return framed(q, call, near_frames(call, q.device, 1).reshape(1, 1, 2, call.layout.grid.t // 2, -1).flatten(2, 3))


def only_float32(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    assert q.dtype == torch.float32, "float32 only"
    return plan(settings, q, k, call)


def by_dtype(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    return framed(q, call, near_frames(call, q.device, 3 if q.dtype == torch.float64 else 1))


def nothing_at_ties(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    if bool((q == 0).all()):
        raise ZeroDivisionError("scores without a spread")
    return plan(settings, q, k, call)


@dataclass(frozen=True)
class Lists:
    """Settings that keep a list as it comes."""

    pair: tuple[int, ...] = (1, 2)


FAILING: list[tuple[str, dict[str, Any], str]] = [
    ("source", {"summary": "two\nlines"}, "summary is 'two\\nlines'; it must be one line"),
    ("source", {"source": Source("Paper", "arxiv 1234")}, "source.url is 'arxiv 1234'; it must be the address"),
    ("settings", {"settings": Lists}, "lists must do for tuples"),
    ("settings", {"resolve": lambda s, layout: replace(s, reach=s.reach + 1)}, "resolve changes what it returned"),
    ("any grid", {"plan": only_even}, "grid 1x1x1, layer 0: RuntimeError: "),
    ("any grid", {"plan": lambda *given: None}, "planned a NoneType; it must return an attnbench Plan"),
    ("any grid", {"plan": lambda s, q, k, call: plan(s, q[:1], k, call)}, "the plan is for"),
    ("text", {"plan": dropping_text}, "a query drops a text token"),
    ("text", {"plan": counting_text}, "the video's pairs are others than without text"),
    ("layers", {"plan": by_layer}, "layer 1: keeps others than layer 0"),
    ("layers", {"distinct_layers": lambda s, layers: (0, 1, 2)}, "distinct_layers of 1 layers is (0, 1, 2)"),
    ("layers", {"plan": by_layer, "distinct_layers": three_kinds}, "layer 3: keeps others than layer 0, and distinct"),
    ("layers", {"distinct_layers": three_kinds, "alike": lambda s, n: (0,) * n}, "alike of 2 layers is (0, 0); it"),
    ("determinism", {"plan": restless}, "two plans for the same q and k differ"),
    ("ties", {"plan": nothing_at_ties}, "ZeroDivisionError: scores without a spread"),
    ("batch and heads", {"plan": choosing}, "keeps others than alone"),
    ("batch and heads", {"plan": choosing, "heads_are_independent": False}, "batch item 0 keeps others"),
    ("ranks", {"plan": choosing}, "by ulysses, the output of rank 0 of 3 differs from that of one process"),
    ("ranks", {"finish": mixing}, "by ulysses, the output of rank 0 of 3 differs from that of one process"),
    ("ranks", {"plan": choosing_by_head, "plans_shards": True, "depends_on_qk": True}, "layer 0: "),
    ("q and k", {"plan": writing}, "plan writes into q or k"),
    ("dtypes", {"plan": only_float32}, "AssertionError: float32 only"),
    ("dtypes", {"plan": by_dtype}, "the selection differs from the rule in float64"),
    ("static", {"plan": choosing}, "depends_on_qk is False, and another q and k, or dtype, give another plan"),
    ("static", {"plan": by_dtype}, "depends_on_qk is False, and another q and k, or dtype, give another plan"),
    ("twin", {"twin": lambda s, layout, layer: (s, layout)}, "the twin has 32,760 tokens; it must have at most 4,096"),
    ("twin", {"twin": lambda s, layout, layer: (s, Layout(Grid(2, 2, 2)))}, "the twin has text (0, 0)"),
    ("output", {"twin": lambda s, layout, layer: 1 / 0}, "grid 21x30x52, layer 0: ZeroDivisionError"),
    ("stability", {"plan": restless}, "layer 0: call 2 on the same inputs differs"),
    ("density", {"density_setting": DensitySetting(("reach",), lambda s, layout, d: {"reach": round(4 - 4 * d)})},
     "more is asked for and less is kept: 0.1 gives"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "reason"), FAILING, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(FAILING)]
)
def test_a_method_that_breaks_a_rule_fails_its_check(name: str, changes: dict[str, Any], reason: str) -> None:
    outcome = outcome_of(name, **changes)
    assert outcome.verdict == "fail"
    assert reason in outcome.detail


@pytest.mark.parametrize(("calls", "verdict"), [(299, "pass"), (300, "fail")])
def test_stability_sees_the_one_call_of_many_that_differs(calls: int, verdict: str) -> None:
    made = itertools.count(1)

    def racing(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
        return framed(q, call, near_frames(call, q.device, 0 if next(made) == 300 else 1))

    outcome = run_check("stability", Subject(replace(GOOD, plan=racing), stability_calls=calls))
    assert outcome.verdict == verdict
    assert f"{calls} calls" in outcome.detail or "call 300 on the same inputs differs" in outcome.detail


def test_every_check_can_fail() -> None:
    assert {name for name, _, _ in FAILING} == set(CHECKS)


def test_heads_that_depend_on_one_another_are_fine_if_the_method_says_so() -> None:
    says = {"plan": choosing_by_item, "depends_on_qk": True, "heads_are_independent": False}
    for name in ("batch and heads", "dtypes"):
        assert outcome_of(name, **says).verdict == "pass"
    assert outcome_of("ranks", **says).verdict == "skip"
    q, k = torch.randn(2, 1, 2, 5 * 6, 16).unbind()
    arguments = {"method": replace(GOOD, **says), "grid": (5, 2, 3)}
    check = check_selection(q, k, select(q, k, **arguments), arguments)
    assert check is not None
    assert check.problem is None


@dataclass(frozen=True)
class Reaches:
    """Settings: a reach for all heads, or one for each."""

    reach: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        if isinstance(self.reach, list):
            object.__setattr__(self, "reach", tuple(self.reach))


def reaching(settings: Reaches, q: Tensor, k: Tensor, call: Call) -> Plan:
    reaches = settings.reach if isinstance(settings.reach, tuple) else (settings.reach,) * q.shape[1]
    assert len(reaches) == q.shape[1]
    return framed(q, call, torch.cat([near_frames(call, q.device, reach) for reach in reaches], 1))


@pytest.mark.parametrize("given", [[0], [0, 2, 1], [2, 0, 1, 3], [3, 0, 1, 2, 9]])
def test_settings_of_one_value_a_head_are_those_of_the_heads_of_each_case(given: list[int]) -> None:
    method = replace(GOOD, settings=Reaches, plan=reaching, per_head=("reach",), density_setting=None)
    subject = Subject(method, {"reach": given}, stability_calls=2)
    expected = tuple((given * 4)[:4])
    assert subject.settings(Layout(Grid(4, 2, 3))) == Reaches(expected)
    assert subject.settings(Layout(Grid(4, 2, 3)), range(2, 3)) == Reaches(expected[2:3])
    assert [(each.name, each.detail) for each in run_checks(subject) if each.verdict == "fail"] == []
    other = replace(method, plan=lambda s, q, k, call: reaching(replace(s, reach=s.reach[::-1]), q, k, call))
    found = run_check("batch and heads", replace(subject, method=other))
    assert found.verdict == ("pass" if len(set(given)) == 1 else "fail"), "a head would get another one's value"


@pytest.mark.parametrize("moved", [False, True])
def test_heads_that_depend_on_one_another_are_planned_together_once_for_each_batch_item(moved: bool) -> None:
    planned: list[torch.Size] = []

    def counting(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
        planned.append(q.shape)
        return choosing_by_item(settings, q, k, call)

    method = replace(GOOD, plan=counting, depends_on_qk=True, heads_are_independent=False)
    q, k = torch.randn(2, 3, 4, 5 * 6, 16, generator=torch.Generator().manual_seed(0)).unbind()
    arguments = {"method": method, "grid": (5, 2, 3)}
    plan = select(q, k.flip(2) if moved else k, **arguments)
    planned.clear()
    check = check_selection(q, k, plan, arguments)
    assert check is not None
    assert (check.problem is not None) is moved
    # Each batch item once; if that differs, each once more, and moved.
    assert planned == [(2, 4, 30, 16)] * (3 * 3 if moved else 3)


def test_what_does_not_apply_is_skipped_with_the_reason() -> None:
    assert outcome_of("twin", twin=None).verdict == "skip"
    assert outcome_of("density", density_setting=None).verdict == "skip"
    depends = outcome_of("static", depends_on_qk=True)
    assert depends.verdict == "skip"
    assert "False would let the plan be made once" in depends.detail
    assert outcome_of("static", plan=choosing, depends_on_qk=True).detail == "the plan depends on q and k"


def test_text_that_is_asked_to_be_ordinary_is_not_asked_to_be_dense() -> None:
    outcome = run_check("text", Subject(get_method("sla"), {"text_dense": False}))
    assert (outcome.verdict, outcome.detail) == ("skip", "text_dense is false: text is ordinary tokens")


def test_settings_that_some_grids_refuse_are_tried_on_the_others() -> None:
    def resolve(settings: Frames, layout: Layout) -> Frames:
        if layout.grid.t < settings.reach:
            raise BadInput(f"reach is {settings.reach}; the grid has {layout.grid.t} frames")
        return settings

    method = replace(GOOD, resolve=resolve)
    assert run_check("any grid", Subject(method, {"reach": 4})).verdict == "pass"
    everywhere = run_check("any grid", Subject(method, {"reach": 99}))
    assert everywhere.verdict == "fail"
    assert "refused on every small grid: reach is 99" in everywhere.detail
    defaults = run_check("any grid", Subject(replace(method, settings=_Wide), {}))
    assert "the default settings are refused: reach is 50" in defaults.detail


@dataclass(frozen=True)
class _Wide(Frames):
    reach: int = 50


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(command_line: Run) -> Run:
    return partial(command_line, "check")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first three checks only."""
    monkeypatch.setattr(conformance, "CHECKS", dict(itertools.islice(CHECKS.items(), 3)))


@pytest.mark.usefixtures("few")
def test_the_command_prints_a_line_for_each_check(run: Run) -> None:
    code, out, _ = run("sta", "--set", "tile=2,2,2")
    assert code == 0
    lines = out.splitlines()
    assert [line.split("  ")[1].strip() for line in lines[:-1]] == ["source", "settings", "any grid"]
    assert all(line.startswith("pass  ") for line in lines[:-1])
    assert lines[-1] == "sta: nothing failed"


@pytest.mark.usefixtures("few")
def test_the_command_says_what_failed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(GOOD, plan=only_even)
    monkeypatch.setattr("attnbench.methods.get_method", {"frames": broken}.__getitem__)
    monkeypatch.setattr("attnbench.methods.entries.require_name", lambda name: None)
    code, out, _ = run("frames")
    assert code == 1
    assert out.splitlines()[2].startswith("fail  any grid  grid 1x1x1, layer 0: RuntimeError")
    assert out.splitlines()[-1] == "frames: failed any grid"
    code, out, _ = run("frames", "--json")
    document = json.loads(out)
    assert (code, document["passed"], document["method"]) == (1, False, "frames")
    assert [item["verdict"] for item in document["checks"]] == ["pass", "pass", "fail"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["vmobaa"], "unknown method 'vmobaa': did you mean 'vmoba'"),
        (["sta", "--set", "tiles=3"], "unknown setting of 'sta' 'tiles': did you mean 'tile'"),
        (["sta", "--set", "tile=0"], "tile is 0; it must be 3 whole numbers"),
        ([], "Missing argument 'METHOD'"),
    ],
)
def test_what_cannot_be_checked_is_bad_input(words: list[str], said: str, run: Run) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert said in err


def noise_of(products: Tensor) -> Tensor:
    """The sum over the last axis from one end less that from the other: 0 but for rounding, [...]."""
    return products.cumsum(-1)[..., -1] - products.flip(-1).cumsum(-1)[..., -1]


def tied_pairs(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Every pair of frames is a near tie."""
    grid, (before, after) = call.layout.grid, call.layout.text
    group = q.shape[1] // k.shape[1]
    video = [x[:, :, before : x.shape[2] - after].unflatten(2, (grid.t, -1)).mean(3) for x in (q, k)]
    keys = video[1].repeat_interleave(group, 1)
    keep = noise_of(video[0][:, :, :, None] * keys[:, :, None]) > 0
    return framed(q, call, keep | torch.eye(grid.t, dtype=torch.bool))


def tied_order(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
    """Which of two neighbours comes first is a near tie, and so is what a block of frames is made of."""
    made = plan(settings, q, k, call)
    tokens = call.layout.tokens
    before = torch.arange(tokens) if made.q_order is None else made.q_order
    order = before.expand(q.shape[0], q.shape[1], tokens).clone()
    swap = (noise_of(q.square())[:, :, : tokens // 2] > 0).long()
    first, second = order[..., 0 : 2 * (tokens // 2) : 2].clone(), order[..., 1::2].clone()
    order[..., 0 : 2 * (tokens // 2) : 2] = torch.where(swap > 0, second, first)
    order[..., 1::2] = torch.where(swap > 0, first, second)
    return replace(made, q_order=order, k_order=order)


@pytest.mark.parametrize("method", [tied_pairs, tied_order])
def test_near_ties_may_fall_either_way_in_float64(method: Any) -> None:
    found = outcome_of("dtypes", plan=method, depends_on_qk=True)
    assert found.verdict == "pass", found.detail


def test_other_pairs_in_float64_are_no_near_tie() -> None:
    def other(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
        return framed(q, call, near_frames(call, q.device, 2 if q.dtype == torch.float64 else 1))

    found = outcome_of("dtypes", plan=other, depends_on_qk=True)
    assert found.verdict == "fail"
    assert "the selection differs from the rule in float64" in found.detail


def test_other_blocks_in_float64_are_no_near_tie() -> None:
    def other(settings: Frames, q: Tensor, k: Tensor, call: Call) -> Plan:
        made = plan(settings, q, k, call)
        order = torch.arange(call.layout.tokens)
        if q.dtype == torch.float64:
            order = order.flip(0).roll(call.layout.tokens // 3)
        before = order if made.q_order is None else made.q_order[order]
        return replace(made, q_order=before, k_order=before)

    found = outcome_of("dtypes", plan=other, depends_on_qk=True)
    assert found.verdict == "fail"
    assert "the selection differs from the rule in float64" in found.detail
