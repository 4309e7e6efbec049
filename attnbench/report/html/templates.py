"""The templates and the style sheet that pages are made from."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def template(name: str) -> Template:
    """Return the template of a file in this folder."""
    return _templates().get_template(name)


def resource(name: str) -> str:
    """Return the text of a file in this folder."""
    return resources.files("attnbench.report.html").joinpath(name).read_text(encoding="utf-8")


def script() -> str:
    """Return the script of a report: its parts in order, each a file, in a function of their own."""
    folder = resources.files("attnbench.report.html").joinpath("script")
    parts = sorted((part for part in folder.iterdir() if part.name.endswith(".js")), key=lambda part: part.name)
    return "(() => {\n" + "\n".join(part.read_text(encoding="utf-8") for part in parts) + "})();\n"


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        loader=FunctionLoader(resource), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["whole"] = whole
    return made


def whole(text: str) -> str:
    """Return a text whose brackets do not break: an interval stays on one line."""
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
