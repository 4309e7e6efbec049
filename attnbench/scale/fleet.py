"""Which machines may measure the cells of one suite: those of one kind, as its first worker found it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from attnbench.kernels.errors import BadInput
from attnbench.machine.device import DeviceKind, cpu_info, device_name
from attnbench.machine.environment import driver_version, package_version
from attnbench.results.plans import Planned, read_plan
from attnbench.scale.task import WORKERS


class Machine(Planned):
    """What must be alike on all machines of a suite, so that their cells can be compared."""

    device: str
    driver: str | None = None
    processor: str
    cores: int
    torch: str | None = None


def machine_here(kind: DeviceKind) -> Machine:
    """Describe this machine as a place for cells on a GPU or a CPU.

    Raises:
        Unsupported: for "cuda", if there is no GPU.
    """
    return Machine(
        device=device_name(kind),
        driver=driver_version() if kind == "cuda" else None,
        processor=cpu_info().get("model name", ""),
        cores=os.cpu_count() or 1,
        torch=package_version("torch"),
    )


def require_alike(folder: Path, kind: DeviceKind, here: Machine) -> None:
    """Let a suite's first worker say on which kind of machine its cells are measured; hold all others to it.

    Args:
        folder: of the suite.
        kind: of device that the cell is measured on. Cells on a CPU and on a GPU are told apart.
        here: this machine.

    Raises:
        BadInput: naming all that differs from the first worker's machine.
    """
    place = folder / WORKERS / f"machine-{kind}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        fresh = place.with_name(f".{place.name}.{socket.gethostname()}.{os.getpid()}")
        fresh.write_text(here.model_dump_json(), encoding="utf-8")
        try:
            os.link(fresh, place)  # of two workers at once, one decides for both
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links
            os.replace(fresh, place)
        finally:
            fresh.unlink(missing_ok=True)
    first = read_plan(place.parent, place.name, Machine, "a suite's machine")
    names = [name for name in Machine.model_fields if name != "schema_version"]
    unlike = [name for name in names if getattr(first, name) != getattr(here, name)]
    if unlike:
        theirs, ours = (", ".join(f"{name} {getattr(each, name)}" for name in unlike) for each in (first, here))
        raise BadInput(
            f"mixed machines: the suite in {str(folder)!r} is measured on {theirs}, and this worker has {ours}; choose "
            "nodes of one kind, or another --out for the other kind"
        )
