"""attnbench: how fast sparse attention for video is, at what cost, and what it does to the video."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnbench.analysis.measure import analyze
    from attnbench.api import attention, select
    from attnbench.bench.functions import list_methods, profile, run
    from attnbench.graphs import graphed
    from attnbench.kernels.errors import AttnbenchError, BadInput, Unsupported
    from attnbench.kernels.grid import Grid
    from attnbench.kernels.plan import Plan
    from attnbench.models.patch import patch
    from attnbench.report.formats.write import write_report
    from attnbench.results.layers import load_means
    from attnbench.results.load import load_analysis, load_phases, load_quality, load_results

__version__ = "0.1.0"

_HOMES = {
    "analyze": "attnbench.analysis.measure",
    "attention": "attnbench.api",
    "select": "attnbench.api",
    "graphed": "attnbench.graphs",
    "AttnbenchError": "attnbench.kernels.errors",
    "BadInput": "attnbench.kernels.errors",
    "Unsupported": "attnbench.kernels.errors",
    "Grid": "attnbench.kernels.grid",
    "Plan": "attnbench.kernels.plan",
    "load_analysis": "attnbench.results.load",
    "load_means": "attnbench.results.layers",
    "load_phases": "attnbench.results.load",
    "load_quality": "attnbench.results.load",
    "load_results": "attnbench.results.load",
    "patch": "attnbench.models.patch",
    "run": "attnbench.bench.functions",
    "profile": "attnbench.bench.functions",
    "list_methods": "attnbench.bench.functions",
    "write_report": "attnbench.report.formats.write",
}

__all__ = [
    "AttnbenchError",
    "BadInput",
    "Grid",
    "Plan",
    "Unsupported",
    "analyze",
    "attention",
    "graphed",
    "list_methods",
    "load_analysis",
    "load_means",
    "load_phases",
    "load_quality",
    "load_results",
    "patch",
    "profile",
    "run",
    "select",
    "write_report",
]


def __getattr__(name: str) -> Any:
    # Resolved on first use, so that `import attnbench` and `attnbench --help` do not import torch.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'attnbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
