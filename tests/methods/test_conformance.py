"""Every built-in method passes the checks that `attnbench check` makes."""

from __future__ import annotations

import pytest

from attnbench.bench.conformance import CHECKS, Subject, run_check
from attnbench.methods import get_method
from attnbench.methods.registry import BUILT_IN

DO_NOT_APPLY = {("full", "static"), ("full", "density"), ("moba", "static"), ("vmoba", "static")}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_method_passes(name: str, check: str) -> None:
    outcome = run_check(check, Subject(get_method(name), stability_calls=10))
    assert outcome.verdict == ("skip" if (name, check) in DO_NOT_APPLY else "pass"), outcome.detail
    assert outcome.detail
