"""Settings of the whole suite; fixtures live beside the tests that use them."""

from __future__ import annotations

import importlib
import importlib.util
import os

import torch
from hypothesis import settings

# One thread, here and in what tests start: small tensors gain nothing from more, and workers that each use every core
# wait for one another, a test of 4 s for 162. The variable alone comes too late for torch, which has read it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

if not torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
    # The tests of kernels need Triton's interpreter, and Triton's own functions take their form when it is imported,
    # as torch.utils.flop_counter and diffusers do. The switch stays off for all other tests.
    before = os.environ.get("TRITON_INTERPRET")
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("triton")
    if before is None:
        del os.environ["TRITON_INTERPRET"]

# A deadline would fail tests on a busy machine; a derandomised suite says the same thing twice.
settings.register_profile("attnbench", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("attnbench")
