"""Every built-in method passes the checks that `attnbench check` makes."""

from __future__ import annotations

import pytest

from attnbench.bench.conformance import CHECKS, Subject, run_check
from attnbench.methods import get_method
from attnbench.methods.registry import BUILT_IN


def applies(name: str, check: str) -> bool:
    method = get_method(name)
    if check == "static":
        return name != "full" and not method.depends_on_qk
    return check != "density" or method.density_setting is not None


def pair(name: str, check: str) -> object:
    """The clusters of svg2 cost seconds a check; its output is always checked."""
    slow = [pytest.mark.slow] * (name == "svg2" and check not in ("output", "settings", "twin", "source"))
    return pytest.param(name, check, marks=slow, id=f"{name}-{check}")


@pytest.mark.parametrize(("name", "check"), [pair(name, check) for name in BUILT_IN for check in CHECKS])
def test_a_built_in_method_passes(name: str, check: str) -> None:
    outcome = run_check(check, Subject(get_method(name), stability_calls=10))
    assert outcome.verdict == ("pass" if applies(name, check) else "skip"), outcome.detail
    assert outcome.detail
