"""The state that all code of a process shares: what it is, what a piece of code changed of it, and how to undo that."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from attnbench.machine.signals import SIGNALS

_LIBRARIES = (
    "TORCH", "PYTORCH", "TRITON", "CUDA", "CUTE", "CUTLASS", "NV", "KINETO", "NCCL", "PTXAS", "TF_", "XLA_", "JAX_",
    "HF_", "TRANSFORMERS_", "TOKENIZERS_", "KMP_", "MPL",
)  # fmt: skip
"""Beginnings of environment variables that libraries set by themselves when they are first used."""


@dataclass(frozen=True)
class _Setting:
    """One global setting: what it is called, and how it is read and set."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _flag(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _device() -> torch.device | None:
    try:
        return torch.get_default_device()
    except Exception:  # makes a tensor, which a mode of functions may refuse
        return None


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


_backends = cast(Any, torch.backends)  # torch leaves parts of it without types
_torch = cast(Any, torch._C)

_KERNELS = ("flash", "mem_efficient", "math", "cudnn")
_TINY = sys.float_info.min / 2  # not 0, but where denormal numbers are flushed


def _attention_kernels() -> str:
    return ", ".join(name for name in _KERNELS if getattr(_backends.cuda, f"{name}_sdp_enabled")())


def _allow_attention_kernels(names: str) -> None:
    for name in _KERNELS:
        getattr(_backends.cuda, f"enable_{name}_sdp")(name in names.split(", "))


def _down_to(pop: Callable[[], object], depth: Callable[[], int]) -> Callable[[int], None]:
    """Return what takes modes off a stack until it is as deep as it was."""

    def undo(before: int) -> None:
        for _ in range(before, depth()):
            pop()

    return undo


def _collect(garbage: bool) -> None:
    gc.enable() if garbage else gc.disable()


def _mask() -> str:
    mask = os.umask(0o077)
    os.umask(mask)
    return f"{mask:03o}"


def _cores() -> tuple[int, ...]:
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


_DEPTH = sys.getrecursionlimit()


def _depth() -> int:
    return min(_DEPTH, sys.getrecursionlimit())  # torch's compiler raises it, which harms nobody


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0


def _set_niceness(niceness: int) -> None:
    with contextlib.suppress(PermissionError):  # only the superuser may raise it again
        os.setpriority(os.PRIO_PROCESS, 0, niceness)


def _use_cores(cores: tuple[int, ...]) -> None:
    os.sched_setaffinity(0, cores)


_SETTINGS = (
    _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
    _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _Setting("torch's default device", _device, _set_device),
    _Setting("whether torch records gradients", torch.is_grad_enabled, torch.set_grad_enabled),
    _Setting(
        "torch's precision of float32 products", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    ),
    _Setting(
        "whether torch's algorithms are deterministic",
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    _Setting("cudnn.benchmark", *_flag(_backends.cudnn, "benchmark")),
    _Setting("cudnn.deterministic", *_flag(_backends.cudnn, "deterministic")),
    _Setting("cudnn.enabled", *_flag(_backends.cudnn, "enabled")),
    _Setting("mkldnn.enabled", *_flag(_backends.mkldnn, "enabled")),
    _Setting("which kernels torch's attention may use", _attention_kernels, _allow_attention_kernels),
    _Setting(
        "torch's autocast on a CPU",
        lambda: torch.is_autocast_enabled("cpu"),
        lambda on: torch.set_autocast_enabled("cpu", on),
    ),
    _Setting(
        "torch's autocast on a GPU",
        lambda: torch.is_autocast_enabled("cuda"),
        lambda on: torch.set_autocast_enabled("cuda", on),
    ),
    _Setting("torch's detection of anomalies", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    _Setting(
        "torch's modes of functions",
        _torch._len_torch_function_stack,
        _down_to(_torch._pop_torch_function_stack, _torch._len_torch_function_stack),
    ),
    _Setting(
        "torch's modes of operators",
        _torch._len_torch_dispatch_stack,
        _down_to(lambda: _torch._pop_torch_dispatch_stack(None), _torch._len_torch_dispatch_stack),
    ),
    _Setting("whether denormal numbers are flushed to 0", lambda: _TINY * 1.0 == 0.0, torch.set_flush_denormal),
    _Setting("whether garbage is collected", gc.isenabled, _collect),
    _Setting("the cores that it may use", _cores, _use_cores),
    _Setting("the mask of new files' rights", _mask, lambda mask: os.umask(int(mask, 8))),
    _Setting("the profile function", sys.getprofile, sys.setprofile),
    _Setting("the trace function", sys.gettrace, sys.settrace),
    _Setting("the depth that calls may have", _depth, sys.setrecursionlimit),
    _Setting("how often threads change", sys.getswitchinterval, sys.setswitchinterval),
    _Setting("its priority", _niceness, _set_niceness),
    _Setting("sys.stdout", *_flag(sys, "stdout")),
    _Setting("sys.stderr", *_flag(sys, "stderr")),
)

_FUNCTIONS: Mapping[str, tuple[Any, str, Any]] = {
    f"{module.__name__}.{name}": (module, name, getattr(module, name))
    for module, names in (
        (time, "perf_counter perf_counter_ns monotonic monotonic_ns time time_ns process_time sleep"),
        (torch, "matmul bmm baddbmm einsum softmax"),
        (torch.nn.functional, "scaled_dot_product_attention softmax linear"),
        (torch.Tensor, "__add__ __mul__ __matmul__ __getitem__ matmul softmax exp sum"),
    )
    for name in names.split()
}
"""Functions that must stay what they were when this module was imported: clocks, and what baselines are made of."""


@dataclass(frozen=True)
class State:
    """The shared state at one moment. Random generators are restored, and only a new seed of torch's is a change."""

    settings: tuple[Any, ...]
    folder: str | None
    environ: Mapping[str, str]
    seed: int
    generators: tuple[Any, ...]
    handlers: tuple[Any, ...]

    @classmethod
    def now(cls) -> State:
        """Read it."""
        return cls(
            tuple(setting.read() for setting in _SETTINGS),
            _folder(),
            dict(os.environ),
            torch.initial_seed(),
            _generators(),
            tuple(map(signal.getsignal, SIGNALS)),
        )

    def restore(self, *, imported: bool = False) -> str:
        """Undo what was changed since, and say it in words; empty if nothing was.

        Args:
            imported: whether modules were imported since. Then new environment variables, seeds and handlers of signals
                are no change.
        """
        changes = [*self._settings(), *_replaced_functions(), *self._place(), *self._variables(imported)]
        handlers = self._handlers()
        changes += [] if imported else handlers
        if torch.initial_seed() != self.seed:
            if not imported:
                changes.append(f"torch's random seed from {self.seed} to {torch.initial_seed()}")
            torch.manual_seed(self.seed)
        _restore_generators(self.generators)
        return f"changed {', '.join(changes)}" if changes else ""

    def _settings(self) -> list[str]:
        changes = []
        for setting, before in zip(_SETTINGS, self.settings, strict=True):
            after = setting.read()
            if after != before:
                setting.write(before)
                changes.append(f"{setting.name} from {_words(before)} to {_words(after)}")
        return changes

    def _handlers(self) -> list[str]:
        if threading.current_thread() is not threading.main_thread():
            return []
        changes = []
        for number, before in zip(SIGNALS, self.handlers, strict=True):
            if before is not None and signal.getsignal(number) != before:
                signal.signal(number, before)
                changes.append(f"the handler of {number.name}")
        return changes

    def _place(self) -> list[str]:
        after = _folder()
        if after == self.folder or self.folder is None:
            return []
        try:
            os.chdir(self.folder)
        except OSError:  # the folder was deleted, which is no deed of the code that ran
            return []
        return [f"the working folder from {self.folder!r} to {after!r}"]

    def _variables(self, imported: bool) -> list[str]:
        changes = []
        for name in sorted(self.environ.keys() | os.environ.keys()):
            before, after = self.environ.get(name), os.environ.get(name)
            if before == after or (before is None and (imported or name.startswith(_LIBRARIES))):
                continue
            changes.append(f"the environment variable {name} from {_words(before)} to {_words(after)}")
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
        return changes


def _replaced_functions() -> list[str]:
    changed = [
        name for name, (module, short, function) in _FUNCTIONS.items() if getattr(module, short, None) is not function
    ]
    for name in changed:
        module, short, function = _FUNCTIONS[name]
        setattr(module, short, function)
    return changed


def _words(value: object) -> str:
    if value is None:
        return "none"
    return repr(value)[:60] if isinstance(value, str) else str(value)[:60]


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _numpy() -> types.ModuleType | None:
    return sys.modules.get("numpy.random")


def _generators() -> tuple[Any, ...]:
    numpy = _numpy()
    return torch.get_rng_state(), random.getstate(), None if numpy is None else numpy.get_state()


def _restore_generators(before: tuple[Any, ...]) -> None:
    of_torch, of_python, of_numpy = before
    torch.set_rng_state(of_torch)
    random.setstate(of_python)
    numpy = _numpy()
    if numpy is not None and of_numpy is not None:
        numpy.set_state(of_numpy)
