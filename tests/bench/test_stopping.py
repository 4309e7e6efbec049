"""When no more rounds are taken, and the words for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request, read_request
from attnbench.bench.stopping import (
    LEAST_PRECISE_ROUNDS,
    Budget,
    FixedRounds,
    MostRounds,
    Precision,
    planned,
    rules_of,
    why_stopped,
)
from attnbench.kernels.errors import BadInput

SECONDS = st.just(0.0) | st.floats(1e-9, 100)


def request(**fields: Any) -> Request:
    return read_request(methods={"sta": {}}, **fields)


@given(st.floats(0, 1e5), SECONDS)
def test_rounds_fit_into_the_budget_from_3_to_20(seconds: float, once: float) -> None:
    rounds = planned(rules_of(request(), seconds), once)
    assert 3 <= rounds <= 20
    assert rounds == 3 or rounds * once <= seconds * (1 + 1e-9)
    assert rounds == 20 or (rounds + 1) * once >= seconds * (1 - 1e-9)


@given(st.integers(1, 1000), st.floats(-10, 10), SECONDS)
def test_rounds_that_were_asked_for_are_taken(count: int, seconds: float, once: float) -> None:
    assert planned(rules_of(request(rounds=count), seconds), once) == count


def test_the_strictest_rule_holds() -> None:
    assert planned([MostRounds(20), Budget(60, 60), FixedRounds(7)], 5.0) == 7
    assert planned([MostRounds(20), Budget(60, 60)], 5.0) == 12
    assert planned([MostRounds(20), Budget(60, 60)], 0.1) == 20


def test_a_precision_may_take_more_rounds_than_usual_but_not_more_seconds() -> None:
    rules = rules_of(request(precision=0.01), 60.0)
    assert planned(rules, 0.1) == 200
    assert planned(rules, 1.0) == 60


def test_a_precision_is_reached_when_every_figure_has_it() -> None:
    narrow, wide = [2.0, 2.001, 1.999] * 3, [2.0, 2.3, 1.7] * 3
    rule = Precision(0.01)
    assert rule.reached([narrow, narrow])
    assert not rule.reached([narrow, wide])
    assert not rule.reached([narrow[: LEAST_PRECISE_ROUNDS - 1]])


@pytest.mark.parametrize(
    ("fields", "taken", "precise", "words"),
    [
        ({"rounds": 4}, 4, False, "4 rounds were asked for"),
        ({}, 20, False, "the most rounds, 20"),
        ({"budget": 90}, 12, False, "the budget of 90 s"),
        ({"precision": 0.01}, 12, True, "the precision of 0.01"),
        ({"precision": 0.01}, 12, False, "the budget of 240 s"),
        ({"precision": 0.01}, 200, False, "the most rounds, 200"),
        ({}, 0, False, ""),
    ],
)
def test_the_reason_is_told(fields: dict[str, Any], taken: int, precise: bool, words: str) -> None:
    assert why_stopped(request(**fields), taken, precise=precise) == words


@pytest.mark.parametrize("width", [0, -0.1, 1, 2, float("nan")])
def test_a_precision_is_a_share(width: float) -> None:
    with pytest.raises(BadInput, match="precision"):
        request(precision=width)


def test_rounds_and_a_precision_contradict_each_other() -> None:
    with pytest.raises(BadInput, match="--rounds and --precision"):
        make_agenda(request(grid="2x3x4", rounds=3, precision=0.01, device="cpu"))
