"""Find out what VBench can do here: its environment, and the import and the weights of each dimension."""

from __future__ import annotations

import tempfile
from pathlib import Path

from attnbench.clips.vbench.dimensions import DIMENSIONS, Dimension
from attnbench.clips.vbench.environment import Environment, ask_imports, find
from attnbench.clips.vbench.weights_layout import look_all
from attnbench.kernels.errors import BadInput
from attnbench.machine.doctor import Finding


def examine(folder: Path, weights: Path) -> list[Finding]:
    """Examine the environment, let it import every dimension, and look for the weights. Nothing here raises.

    Args:
        folder: the folder of the environment.
        weights: the folder of VBench's weights.
    """
    environment, imports, finding = _environment(folder)
    usable = environment is not None
    return [finding, *(found for one in DIMENSIONS.values() for found in _dimension(one, imports, weights, usable))]


def _environment(folder: Path) -> tuple[Environment | None, dict[str, str | None], Finding]:
    try:
        environment = find(folder)
        with tempfile.TemporaryDirectory(prefix="attnbench-vbench-") as scratch:
            answer = ask_imports(environment.python, list(DIMENSIONS), Path(scratch))
        if answer["error"]:
            raise BadInput(f"the Python of the VBench environment in {str(folder)!r} fails: {answer['error']}")
    except BadInput as error:
        return None, {}, Finding("environment", "vbench", False, str(error), "attnbench vbench setup")
    told = ", ".join(f"{name} {version}" for name, version in answer["versions"].items())
    return environment, answer["imports"], Finding("environment", "vbench", True, f"{folder}: {told}")


def _dimension(dimension: Dimension, imports: dict[str, str | None], weights: Path, usable: bool) -> list[Finding]:
    problem = imports.get(dimension.name)
    state = ("does not import: " + problem if problem else "imports") if usable else "no environment to import it"
    found = look_all(dimension, weights)
    summary = Finding(
        "dimension",
        dimension.name,
        usable and problem is None and all(one.usable for one in found),
        f"{dimension.model}, {dimension.meaning}; {state}",
    )
    files = [
        Finding(
            "weights",
            one.weight.path,
            one.usable,
            f"{dimension.name}, about {one.weight.about_mb:g} MB: {one.state}"
            + (", random numbers for tests" if one.state == "stand-in" else ""),
            "" if one.usable else f"put {one.weight.url} at {weights / one.weight.path}",
        )
        for one in found
    ]
    return [summary, *files]
