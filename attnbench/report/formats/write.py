"""Write a report in any of its forms: a page, a document, a table, or a folder of figures."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.report.charts.paper import COLUMN_MM, PICTURES, picture
from attnbench.report.data.compared import comparison_data, comparison_words
from attnbench.report.data.page import PageData, page_data, to_json
from attnbench.report.formats.flat import chosen_table, csv_bytes, parquet_bytes
from attnbench.report.formats.latex import latex_text
from attnbench.report.formats.markdown import markdown_text
from attnbench.report.formats.place import ENDINGS, FORMATS, form_of, place_of
from attnbench.report.source import Source, read_source
from attnbench.report.word_table import WordTable
from attnbench.report.words import file_stem
from attnbench.results.compare import compare_tables
from attnbench.results.files import write_whole

_WIDTHS = (20.0, 400.0)


@dataclass(frozen=True)
class Asked:
    """What of a report is written.

    Attributes:
        form: one of ``FORMATS``.
        table: of CSV and Parquet, the name of the table; None takes that of all cells.
        figures: of pictures, how the names of those that are wanted begin; none: all.
        width: of pictures, in millimetres.
    """

    form: str = "html"
    table: str | None = None
    figures: tuple[str, ...] = ()
    width: float = COLUMN_MM

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise unknown_name("format", self.form, FORMATS)
        if self.table is not None and self.form not in ("csv", "parquet"):
            raise BadInput(f"table {self.table!r} is for csv and parquet; {self.form} has them all")
        if self.figures and self.form not in PICTURES:
            raise BadInput(f"figure {self.figures[0]!r} is for {', '.join(PICTURES)}, not for {self.form}")
        if not _WIDTHS[0] <= self.width <= _WIDTHS[1]:
            raise BadInput(f"width {self.width:g} must be from {_WIDTHS[0]:g} to {_WIDTHS[1]:g} millimetres")


@dataclass(frozen=True)
class Written:
    """Files on disk, and of a page the words of its sections as plain values."""

    paths: tuple[Path, ...]
    sections: tuple[dict[str, Any], ...] = ()


def write_report(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
) -> Path:
    """Write results as one HTML page that needs no network, or in another form, and return its path.

    Args:
        path: a file or folder of results, or several; by default the newest run, results/latest.
        out: a file that ends as its form does, or a folder; by default reports/<run>.html and the like.
        format: html, markdown, csv, parquet, latex or json; or png, svg or pdf for figures. By default what ``out``
            ends as, else html.

    Returns:
        The file, or of several figures the folder.

    Raises:
        BadInput: if there are no results, they cannot be written, or there is no such format.
    """
    paths = [] if path is None else [path] if isinstance(path, str | os.PathLike) else path
    place = None if out is None else Path(out)
    asked = Asked(form_of(place) if format is None else format)
    written = write(read_source([Path(each) for each in paths]), place, asked)
    folder = asked.form in PICTURES and written.paths[0] != place
    return written.paths[0].parent if folder else written.paths[0]


def write(source: Source, out: Path | None, asked: Asked) -> Written:
    """Write a report.

    Args:
        source: what it shows.
        out: a file that ends as its form does, or a folder; pictures go to a folder.
        asked: what of it is written.

    Raises:
        BadInput: if it cannot be written, or has no such table or figure.
    """
    if asked.form == "html":
        from attnbench.report.html.write import render

        page = render(source, out)
        return Written((page.path,), tuple(map(dataclasses.asdict, page.parts)))
    paths = map(str, source.paths)
    data = page_data(source.results, source.training, paths, calibrations=source.calibrations)
    return write_data(data, source.name, out, asked, _training_tables(source))


def write_comparison(a: Source, b: Source, out: Path | None, asked: Asked) -> Written:
    """Write two runs beside each other, with the verdicts of ``compare_tables``; arguments as of ``write``.

    Raises:
        BadInput: as ``write``, and if A or B holds no latencies.
    """
    for source in (a, b):
        if not source.results.rows:
            raise BadInput(f"{str(source.paths[0])!r} holds no latencies: --compare is for latency tables")
    result = compare_tables(a.results, b.results, join_alike=True)
    name = f"{a.name}-against-{b.name}"
    if asked.form == "html":
        from attnbench.report.html.comparison import comparison_html

        return Written((write_whole(comparison_html(result, a, b).encode(), place_of(out, name)),))
    return write_data(comparison_data(result, a, b), name, out, asked, lead=comparison_words(result))


def write_data(
    data: PageData,
    name: str,
    out: Path | None,
    asked: Asked,
    training: Sequence[WordTable] = (),
    lead: Sequence[str] = (),
) -> Written:
    """Write the data of a report in any form but HTML, as ``write``; ``name`` is that of the file or the folder."""
    form = asked.form
    if form in PICTURES:
        return _write_pictures(data, out or Path("reports") / f"{file_stem(name)}-figures", asked)
    if form in ("csv", "parquet"):
        table = chosen_table(data, asked.table)
        content = csv_bytes(table) if form == "csv" else parquet_bytes(table)
        named = name if asked.table is None else f"{name}-{table.name}"
        return Written((write_whole(content, place_of(out, named, form)),))
    place = place_of(out, name, form)
    if form == "json":
        content = f"{to_json(data)}\n".encode()
    else:
        content = (markdown_text(data, training, lead) if form == "markdown" else latex_text(data, lead)).encode()
    return Written((write_whole(content, place),))


def _write_pictures(data: PageData, out: Path, asked: Asked) -> Written:
    for wanted in asked.figures:
        if not any(figure.name.startswith(wanted) for figure in data.figures):
            raise unknown_name("figure", wanted, dict.fromkeys(figure.section for figure in data.figures))
    chosen = [each for each in data.figures if not asked.figures or each.name.startswith(asked.figures)]
    if not chosen:
        raise BadInput("these results have nothing to draw")
    is_file = not out.is_dir() and (out.exists() or out.suffix.lower() in ENDINGS[asked.form])
    if is_file and len(chosen) > 1:
        raise BadInput(f"--out {str(out)!r} is one file, and there are {len(chosen)} figures: name a folder, or one "
                       "figure with --figures")  # fmt: skip
    places = [place_of(out, each.name, asked.form) for each in chosen]
    drawn = [
        write_whole(picture(figure, asked.form, asked.width), place)
        for figure, place in zip(chosen, places, strict=True)
    ]
    return Written(tuple(drawn))


def _training_tables(source: Source) -> list[WordTable]:
    """Return what training runs have in common in words; nothing of runs that cannot be compared."""
    from attnbench.report.training_tables import baseline_of, by_method, clips_table, loss_table

    tables: list[WordTable] = []
    for group in source.training:
        if not group.runs:
            continue
        baseline = baseline_of(group.runs)
        grouped = by_method(group.runs, baseline)
        try:
            found = [loss_table(grouped, baseline), clips_table(grouped, baseline)]
        except BadInput:  # runs without a step in common
            continue
        tables += [table for table in found if table is not None]
    return tables
