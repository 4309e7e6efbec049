"""A report as LaTeX: a table for each selection, for documents that use the package booktabs."""

from __future__ import annotations

from collections.abc import Sequence

from attnbench.report.data.page import Chosen, PageData
from attnbench.report.formats.ranking import badge_words, clips, comparison, ranking, selection_words, steps
from attnbench.report.word_table import WordTable

_SIGNS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "—": "---", "…": r"\ldots{}", "“": "``", "”": "''",
    "×": r"$\times$", "·": r"$\cdot$", "−": "$-$", "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "Δ": r"$\Delta$", "µ": r"$\mu$", "√": r"$\surd$",
    "[": "{[}", "]": "{]}", '"': "''",
}  # fmt: skip
_COLUMNS = 6
"""Columns that fit into one column of a paper."""

_HEAD = "% Tables of attnbench. They need \\usepackage{booktabs}; file encoding UTF-8.\n"


def latex_text(data: PageData, lead: Sequence[str] = ()) -> str:
    """Return the ranked table of each selection, and others that there are, each with a caption and a label.

    Args:
        data: of the report.
        lead: sentences for the caption of a comparison.
    """
    tables = [_table(ranking(data, each.place), _caption(data, each), each.name) for each in data.selections]
    titles = {
        "clips": "Clips, compared with those of full attention.",
        "steps": "Whole transformer steps.",
        "comparison": " ".join(f"{each[:1].upper()}{each[1:].removesuffix('.')}." for each in [data.title, *lead]),
    }
    for name, found in (("clips", clips(data)), ("steps", steps(data)), ("comparison", comparison(data))):
        tables += [_table(found, titles[name], name)] if found is not None else []
    return _HEAD + "\n".join(tables)


def _caption(data: PageData, chosen: Chosen) -> str:
    measured = selection_words(chosen)
    told = [chosen.sentence, f"{measured[:1].upper()}{measured[1:]}.", chosen.density, badge_words(data, chosen.place)]
    return " ".join(filter(None, told))


def escaped(text: str) -> str:
    """Return text so that LaTeX shows it as text; control characters are left out."""
    return "".join(_SIGNS.get(each, each) for each in text if each.isprintable())


def _table(table: WordTable, caption: str, label: str) -> str:
    columns = "".join("r" if place in table.right else "l" for place in range(len(table.header)))
    wide = len(table.header) > _COLUMNS
    place, size = ("table*", r"\footnotesize\setlength{\tabcolsep}{4pt}") if wide else ("table", r"\small")
    lines = [
        rf"\begin{{{place}}}[t]", r"\centering", size, rf"\begin{{tabular}}{{{columns}}}", r"\toprule",
        _line(table.header), r"\midrule", *map(_line, table.rows), r"\bottomrule", r"\end{tabular}",
        rf"\caption{{{escaped(caption)}}}", rf"\label{{tab:attnbench-{label}}}", rf"\end{{{place}}}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
