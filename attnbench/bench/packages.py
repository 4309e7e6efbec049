"""The packages whose code takes part in a run: those of its methods, and of engines that may run any cell."""

from __future__ import annotations

from attnbench.bench.request import Request
from attnbench.kernels.engines.others import GROUP as ENGINES
from attnbench.kernels.engines.others import other_names
from attnbench.kernels.plugins import Code, code_of
from attnbench.methods.registry import BUILT_IN
from attnbench.methods.registry import GROUP as METHODS
from attnbench.results.conditions import contents_of


def packages_of(request: Request) -> list[Code]:
    """Return the code of other packages that a run may call, without importing any, each package once."""
    asked = [(METHODS, entry.method) for entry in request.methods if entry.method not in BUILT_IN]
    found = [code_of(group, name) for group, name in [*asked, *((ENGINES, name) for name in other_names())]]
    return list({code.module: code for code in found if code is not None}.values())


def package_contents(request: Request) -> dict[str, str]:
    """Return the digest of the source of each of these packages, by "package NAME".

    Raises:
        BadInput: if a file of one cannot be read.
    """
    return contents_of({f"package {code.module}": code.place for code in packages_of(request)})


def package_versions(request: Request) -> dict[str, str]:
    """Return the version of each of these packages that has one, by the name that pip knows it by."""
    return {code.package: code.version for code in packages_of(request) if code.package}
