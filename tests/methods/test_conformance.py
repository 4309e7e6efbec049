"""Every built-in method passes the checks that `attnbench check` makes."""

from __future__ import annotations

import pytest

from attnbench.bench import conformance
from attnbench.bench.conformance import CHECKS, LAYOUTS, Subject, run_check, run_checks
from attnbench.methods import get_method
from attnbench.methods.registry import BUILT_IN


def applies(name: str, check: str) -> bool:
    method = get_method(name)
    if check == "static":
        return name != "full" and not method.depends_on_qk
    return check != "density" or method.density_setting is not None


def check_one(name: str, check: str, stability_calls: int) -> None:
    outcome = run_check(check, Subject(get_method(name), stability_calls=stability_calls))
    assert outcome.verdict == ("pass" if applies(name, check) else "skip"), (check, outcome.detail)
    assert outcome.detail, check


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", [name for name in BUILT_IN if name != "svg2"])  # its clusters cost seconds a check
def test_a_built_in_method_passes(name: str, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conformance, "LAYOUTS", [LAYOUTS[place] for place in (0, 1, 3, 5, 6)])
    monkeypatch.setattr(conformance, "LARGE", conformance.LARGE[2:])
    check_one(name, check, 4)


@pytest.mark.parametrize("check", ["output", "settings", "twin", "source"])
def test_svg2_passes_what_costs_little(check: str) -> None:
    check_one("svg2", check, 4)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("sparge", {"topk": [0.1, 0.2, 0.3, 0.4]}),
        ("sparge", {"cdf": [0.5, 0.9, 0.7], "similarity": [-0.1, 0.3]}),
        ("svg1", {"temporal": [True, False, True, False]}),
        ("svg1", {"temporal": [False, True, True]}),
        ("svg1", {"temporal": [True]}),
    ],
)
def test_settings_of_one_value_a_head_may_have_any_number_of_them(
    name: str, given: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conformance, "LAYOUTS", [LAYOUTS[place] for place in (1, 4)])
    monkeypatch.setattr(conformance, "LARGE", conformance.LARGE[2:])
    outcomes = list(run_checks(Subject(get_method(name), given, stability_calls=2)))
    assert [(each.name, each.detail) for each in outcomes if each.verdict == "fail"] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_method_passes_on_every_grid(name: str) -> None:
    for check in CHECKS:
        check_one(name, check, 10)
