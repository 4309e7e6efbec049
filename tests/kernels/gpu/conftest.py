"""Kernels run on the GPU where there is one, otherwise in Triton's interpreter on the CPU.

Triton decides when it compiles a kernel's source, at import. So ``tests/conftest.py`` imports Triton, and this file
every kernel, with the interpreter switched on; it is on again only while the tests of this folder run.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
from typing import Any

import pytest
import torch

import attnbench.kernels.gpu

SWITCH = "TRITON_INTERPRET"
HAS_GPU = torch.cuda.is_available()


def _import_kernels() -> None:
    for module in pkgutil.walk_packages(attnbench.kernels.gpu.__path__, "attnbench.kernels.gpu."):
        importlib.import_module(module.name)


def _make_interpreter_quick() -> None:
    """Take out of triton 3.6's interpreter what has no effect on results, and takes half of its time."""
    from triton.runtime import interpreter

    # Every sum and product of integers is checked for overflow, and what the checks find is dropped: debug is off.
    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=False)

    # Triton's language is patched for the interpreter at each launch, and again at each call of a device function:
    # once for each of its modules in a launch is enough.
    patch, launch, patched = interpreter._patch_lang, interpreter.GridExecutor.__call__, set[tuple[str, ...]]()

    def patch_once(function: Any) -> Any:
        seen = (x for x in function.__globals__.values() if inspect.ismodule(x))
        names = tuple(sorted({x.__name__ for x in seen if x in (interpreter.tl, interpreter.tl.core)}))
        if names in patched:
            return interpreter._LangPatchScope()
        patched.add(names)
        return patch(function)

    def launch_afresh(self: Any, *args: Any, **kwargs: Any) -> Any:
        patched.clear()
        return launch(self, *args, **kwargs)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launch_afresh


if HAS_GPU:
    _import_kernels()
else:
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    _import_kernels()
    if before is None:
        del os.environ[SWITCH]
    _make_interpreter_quick()


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
