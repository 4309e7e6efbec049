"""What ``ls methods`` shows without importing the methods is what the methods say of themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attnbench.methods import cards, get_method
from attnbench.methods.registry import BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_card_read_from_the_file_is_that_of_the_method(name: str) -> None:
    written = cards._written(name)
    assert written == cards.card_of(get_method(name))


def test_a_file_that_computes_its_card_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "import dataclasses\nfrom attnbench.methods import get_method\n"
    source += "METHOD = dataclasses.replace(get_method('sta'), name='computed', summary=' '.join('ab'))\n"
    (tmp_path / "computed_card.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(BUILT_IN, "computed", "computed_card:METHOD")
    found = cards.card("computed")
    assert (found.summary, found.settings) == ("a b", {"tile": (6, 8, 8), "window": (3, 3, 3)})


def test_listing_the_built_in_methods_loads_no_torch() -> None:
    program = (
        "import json, sys\nfrom attnbench.methods import cards, registry\n"
        "found = [cards.card(name).name for name in registry.BUILT_IN]\n"
        "print(json.dumps([found, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout) == [list(BUILT_IN), False]
