"""What the tests of the roofline share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from attnbench.kernels.plan import Plan

PLANS = Path(__file__).with_name("plans.py")


@pytest.fixture(scope="session")
def random_plan() -> Callable[..., Plan]:
    spec = importlib.util.spec_from_file_location("roofline_plans", PLANS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Callable[..., Plan] = module.random_plan
    return found
