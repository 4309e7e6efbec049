"""Kernels run on the GPU where there is one, otherwise in Triton's interpreter on the CPU.

Triton decides when it compiles a kernel's source, at import. So ``tests/conftest.py`` imports Triton, and this file
every kernel, with the interpreter switched on; it is on again only while the tests of this folder run.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Iterator

import pytest
import torch

import attnbench.kernels.gpu

SWITCH = "TRITON_INTERPRET"
HAS_GPU = torch.cuda.is_available()


def _import_kernels() -> None:
    for module in pkgutil.iter_modules(attnbench.kernels.gpu.__path__, "attnbench.kernels.gpu."):
        importlib.import_module(module.name)


if HAS_GPU:
    _import_kernels()
else:
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    _import_kernels()
    if before is None:
        del os.environ[SWITCH]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The interpreter of triton 3.6 turns arrays of one element into loop bounds, which numpy deprecates.
    quiet = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning")
    for item in items:
        if "kernels/gpu" in item.path.as_posix():
            item.add_marker(quiet)


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if not HAS_GPU:
        monkeypatch.setenv(SWITCH, "1")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if HAS_GPU else "cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
