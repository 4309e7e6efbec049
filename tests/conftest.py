"""Settings of the whole suite; fixtures live beside the tests that use them."""

from __future__ import annotations

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread a worker: several workers that each use every core only wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A deadline would fail tests on a busy machine; a derandomised suite says the same thing twice.
settings.register_profile("attnbench", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("attnbench")
