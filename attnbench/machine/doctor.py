"""Which parts of this machine and installation attnbench can use, and how to get the rest. Nothing here raises."""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from attnbench.kernels.told import in_one_line
from attnbench.machine.device import cpu_info, device_name
from attnbench.machine.environment import package_version
from attnbench.machine.load import WINDOW, LoadWatch, governors
from attnbench.machine.telemetry import Reading, read
from attnbench.results.flags import BOUNDS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MIN_FREE_GIB = 1.0
_CPU_FLAGS = {"AVX-512": "avx512f", "AVX-512 bf16": "avx512_bf16", "AMX bf16": "amx_bf16"}
# Distribution, module that must import, and the extra of attnbench that brings it.
_EXTRAS = (
    ("flash-attn-4", "flash_attn.cute", "flash"),
    ("diffusers", "diffusers", "models"),
    ("transformers", "transformers", "models"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``detail`` says what was found, ``remedy`` how to get what is missing."""

    group: str
    name: str
    usable: bool
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def examine(results: Path) -> list[Finding]:
    """Look at devices, engines, codecs, extras and tools; ``results`` is the folder that runs are written to."""
    return [
        *_guarded("device", "CPU", _cpu),
        *_guarded("device", "CUDA", _cuda),
        *_guarded("device", "NVML", _nvml),
        *_guarded("flags", "busy-machine", _load),
        *_guarded("flags", "frequency", _governor),
        *_guarded("flags", "GPU", _gpu_use),
        *_guarded("engine", "engines", _engines),
        *_guarded("codec", "h264", lambda: _codec("h264", "r", "reads clips")),
        *_guarded("codec", "libx264", lambda: _codec("libx264", "w", "writes clips")),
        *_guarded("extra", "extras", lambda: chain.from_iterable(_extra(*extra) for extra in _EXTRAS)),
        *_guarded("tool", "browser", _browser),
        *_guarded("disk", "results", lambda: _disk(results)),
    ]


def _guarded(group: str, name: str, probe: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield what a probe finds; where it fails in a way that nobody foresaw, that is the finding."""
    try:
        yield from list(probe())
    except Exception as error:
        yield Finding(group, name, False, f"could not be examined: {in_one_line(error)}")


def _cpu() -> Iterator[Finding]:
    import torch

    yield Finding("device", "CPU", True, f"{device_name('cpu')}, torch uses {torch.get_num_threads()} threads")
    flags = cpu_info().get("flags", "").split()
    for name, flag in _CPU_FLAGS.items():
        present = flag in flags
        yield Finding("device", name, present, "supported" if present else "not among the flags of this CPU")


def _cuda() -> Iterator[Finding]:
    import torch

    if torch.version.cuda is None:
        reason, remedy = f"torch {torch.__version__} is built without CUDA", "install a CUDA build of torch"
        yield Finding("device", "CUDA", False, reason, remedy)
    elif not torch.cuda.is_available():
        reason = f"torch {torch.__version__} finds no CUDA device"
        yield Finding("device", "CUDA", False, reason, "needs an NVIDIA GPU and its driver; see nvidia-smi")
    else:
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            detail = f"{properties.name}, compute capability {properties.major}.{properties.minor}"
            memory = f"{properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
            yield Finding("device", f"cuda:{index}", True, f"{detail}, {memory}")


def _nvml() -> Iterator[Finding]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        remedy = "comes with the NVIDIA driver; without it clocks, power and temperature stay empty"
        yield Finding("device", "NVML", False, str(error), remedy)
        return
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        clock = pynvml.nvmlDeviceGetClockInfo(pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.NVML_CLOCK_SM)
        yield Finding("device", "NVML", True, f"driver {driver}, SM clock {clock} MHz")
    except pynvml.NVMLError as error:
        yield Finding("device", "NVML", False, str(error), "clocks, power and temperature stay empty")
    finally:
        pynvml.nvmlShutdown()


def _load() -> Iterator[Finding]:
    watch = LoadWatch()
    time.sleep(WINDOW)
    seen = watch.look()
    if seen.others_busy is None:
        yield Finding("flags", "busy-machine", False, "this system does not tell what other processes use")
        return
    quiet = seen.others_busy <= BOUNDS.others_busy and (seen.steal or 0) <= BOUNDS.steal
    used = f"other processes use {seen.others_busy:.0%} of the cores, the hypervisor {seen.steal or 0:.0%}"
    remedy = "" if quiet else "end other work: cells on this CPU would get the flag busy-machine now"
    yield Finding("flags", "busy-machine", quiet, used, remedy)


def _governor() -> Iterator[Finding]:
    found = governors()
    slow = "powersave" in found
    detail = f"governor {', '.join(found)}" if found else "the governor is not told"
    yield Finding("flags", "frequency", not slow, detail, "cpupower frequency-set -g performance" if slow else "")


def _gpu_use() -> Iterator[Finding]:
    import torch

    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        torch.zeros(1, device=device)  # so that this process is among those on the GPU, and not taken for another
        yield gpu_finding(f"cuda:{index}", read(device))


def gpu_finding(name: str, seen: Reading | None) -> Finding:
    """Return what a look at a GPU says: its power limit, its temperature, and whether others compute on it."""
    if seen is None:
        return Finding("flags", name, False, "NVML does not tell clocks, power and other processes")
    limit = "" if seen.power_limit_w is None else f" of at most {seen.power_limit_w:.0f} W"
    state = f"uses {seen.power_w:.0f} W{limit}, {seen.temperature_c:.0f} °C"
    if seen.foreign_processes is None:
        return Finding("flags", name, True, f"{state}; what others compute on it is not told")
    if seen.foreign_processes == 0:
        return Finding("flags", name, True, f"{state}; nothing else computes on it")
    remedy = "end other work: cells on this GPU would get the flag busy-machine now"
    return Finding("flags", name, False, f"{state}; other processes on it: {seen.foreign_processes}", remedy)


def _engines() -> Iterator[Finding]:
    from attnbench.kernels.engines import known_engines, why_not_here

    for engine in known_engines():
        name = engine.name
        try:
            reason = why_not_here(engine)
            version = engine.version() if reason is None else ""
        except Exception as error:  # a broken install of one engine must not hide the others
            yield Finding("engine", name, False, engine.summary, in_one_line(error))
            continue
        detail = f"{engine.summary} ({version})" if version else engine.summary
        yield Finding("engine", name, reason is None, detail, reason or "")


def _codec(name: str, mode: Literal["r", "w"], use: str) -> Iterator[Finding]:
    import av

    try:
        av.Codec(name, mode)
    except ValueError:
        remedy = "pip install --force-reinstall --only-binary av av"
        yield Finding("codec", name, False, f"PyAV {av.__version__} is built without it", remedy)
        return
    yield Finding("codec", name, True, f"PyAV {av.__version__} {use}")


def _extra(distribution: str, module: str, extra: str) -> Iterator[Finding]:
    remedy = f"pip install 'attnbench[{extra}]'"
    version = package_version(distribution)
    if version is None:
        yield Finding("extra", distribution, False, "not installed", remedy)
        return
    try:
        importlib.import_module(module)
    except Exception as error:  # compiled packages fail in every way there is
        reason = f"{version} is installed, but {module} does not import: {in_one_line(error)}"
        yield Finding("extra", distribution, False, reason, f"{remedy} --force-reinstall")
        return
    yield Finding("extra", distribution, True, version)


def _browser() -> Iterator[Finding]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        remedy = "apt-get install chromium; only the tests of the report need it"
        yield Finding("tool", "browser", False, f"none of {', '.join(BROWSERS)} is installed", remedy)
    else:
        yield Finding("tool", "browser", True, found)


def _disk(results: Path) -> Iterator[Finding]:
    folder = results.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        yield Finding("disk", "results", False, f"{existing} is not a folder", "choose another folder with --out")
        return
    free = shutil.disk_usage(existing).free / 2**30
    detail = f"{free:.1f} GiB free for {results}"
    if not os.access(existing, os.W_OK):
        yield Finding("disk", "results", False, f"{existing} cannot be written to", "choose another folder with --out")
    elif free < MIN_FREE_GIB:
        yield Finding("disk", "results", False, detail, f"free some: runs want {MIN_FREE_GIB:.0f} GiB")
    else:
        yield Finding("disk", "results", True, detail)
