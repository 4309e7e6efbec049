"""Where a report is written, and which form a file name stands for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from attnbench.kernels.errors import BadInput
from attnbench.report.words import file_stem
from attnbench.results.files import is_stream

ENDINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "html": (".html", ".htm"), "markdown": (".md", ".markdown"), "csv": (".csv",), "parquet": (".parquet",),
        "latex": (".tex", ".latex"), "json": (".json",), "png": (".png",), "svg": (".svg",), "pdf": (".pdf",),
    }
)  # fmt: skip
"""How the files of each form end; the first ending is the usual one."""

FORMATS = tuple(ENDINGS)
"""In what forms a report may be written."""

_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]*")
"""An ending that says that a file is meant: one of digits may belong to a folder, as in v1.0."""


def form_of(out: Path | None) -> str:
    """Return the form that a file stands for by how it ends; html for a folder and where nothing is named.

    Raises:
        BadInput: if no form ends so.
    """
    if out is None or out.is_dir() or is_stream(out) or not _FILE.fullmatch(out.suffix):
        return "html"
    for form, endings in ENDINGS.items():
        if out.suffix.lower() in endings:
            return form
    known = ", ".join(endings[0] for endings in ENDINGS.values())
    told = f"--out {str(out)!r} ends as no form of a report does"
    raise BadInput(f"{told}: name a folder, or a file that ends in one of {known}")


def place_of(out: Path | None, name: str, form: str = "html") -> Path:
    """Return the file to write: ``out`` if it ends as such files do, else a file of that name in the folder ``out``.

    Args:
        out: a file or a folder; None takes the folder reports.
        name: of the file without an ending; what file names cannot hold is replaced.
        form: of the file.

    Raises:
        BadInput: if ``out`` is a file of another form.
    """
    endings = ENDINGS[form]
    folder = out or Path("reports")
    if out is not None and not out.is_dir():
        if out.suffix.lower() in endings or is_stream(out):
            return out
        if out.exists() or _FILE.fullmatch(out.suffix):
            raise BadInput(f"--out {str(out)!r} must end in {endings[0]} for {form}, or be a folder")
    return folder / f"{file_stem(name)}{endings[0]}"
