"""Sparse attention methods, one file each, and the registry that finds them."""

from attnbench.methods.base import BranchCall, Call, Cycle, Finished, Method, Source
from attnbench.methods.registry import check_method, get_method, make_settings, method_names

__all__ = [
    "BranchCall",
    "Call",
    "Cycle",
    "Finished",
    "Method",
    "Source",
    "check_method",
    "get_method",
    "make_settings",
    "method_names",
]
