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


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_method_passes(name: str, check: str) -> None:
    outcome = run_check(check, Subject(get_method(name), stability_calls=10))
    assert outcome.verdict == ("pass" if applies(name, check) else "skip"), outcome.detail
    assert outcome.detail
