"""The pictures of native training: curves from committed logs, and clips side by side."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from attnbench.report.charts.latency import COLOURS

ROOT = Path(__file__).resolve().parents[2]
FIVE = COLOURS[:5]
RUNS = ROOT / "results" / "h100" / "native"

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a script as a program; return its exit code and what it said on standard error."""

    def run(name: str, *words: object) -> tuple[int, str]:
        script = ROOT / "scripts" / name
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        monkeypatch.syspath_prepend(str(script.parent))  # as it is where a script is run
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return run


def test_curves_are_drawn_of_methods_with_several_seeds(call: Call, tmp_path: Path) -> None:
    assert call("mini_curves.py", RUNS, tmp_path / "a.svg") == (0, "")
    assert call("mini_curves.py", RUNS, tmp_path / "b.svg") == (0, "")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn == (tmp_path / "b.svg").read_text()
    few = tmp_path / "few"
    for name in ("full-0", "full-1", "sta-0"):
        shutil.copytree(RUNS / name, few / name)
    assert call("mini_curves.py", few, tmp_path / "c.svg") == (0, "")
    in_both = [colour in picture for picture in (drawn, (tmp_path / "c.svg").read_text()) for colour in FIVE]
    assert in_both == [True] * 6 + [False] * 4
    shutil.rmtree(few / "full-1")
    code, said = call("mini_curves.py", few, tmp_path / "d.svg")
    assert (code, "0 methods have several seeds" in said) == (2, True)
    code, said = call("mini_curves.py", RUNS, tmp_path / "no folder" / "d.svg")
    assert (code, said.startswith("mini_curves.py: ")) == (2, True)


def test_clips_of_a_run_stand_in_a_row_in_their_order(call: Call, tmp_path: Path) -> None:
    for level, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        look = np.zeros((15, 3, 16, 8, 8), dtype=np.uint8)
        look += (np.arange(15, dtype=np.uint8) * 10 + level * 100)[:, None, None, None, None]
        np.save(tmp_path / name / "look.npy", look)
    assert call("mini_gallery.py", tmp_path / "p.png", tmp_path / "a", tmp_path / "b") == (0, "")
    picture = (image.imread(tmp_path / "p.png")[..., 0] * 255).round()
    assert picture.shape == (8 + 6 + 8, 5 * 4 * 8 + 4 * 6)
    starts = range(0, picture.shape[1], 4 * 8 + 6)
    assert [picture[0, x] for x in starts] == [10, 30, 70, 110, 130]
    assert [picture[14, x] for x in starts] == [110, 130, 170, 210, 230]
    assert picture[10].min() == 255


@pytest.mark.parametrize("damage", ["missing", "truncated", "of other numbers", "too few", "pickled"])
def test_what_holds_no_clips_is_refused(damage: str, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "look.npy"
    if damage == "too few":
        np.save(path, np.zeros((13, 3, 16, 8, 8), dtype=np.uint8))
    elif damage == "pickled":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif damage != "missing":
        np.save(path, np.zeros((15, 3, 16, 8, 8), dtype=np.uint8 if damage == "truncated" else np.float32))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-9])
    code, said = call("mini_gallery.py", tmp_path / "p.png", tmp_path)
    assert (code, "look.npy' " in said, said.count("\n")) == (2, True, 1)
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("script", ["mini_gallery.py", "clips_gallery.py"])
@pytest.mark.parametrize("name", ["p.tiffy", "p"])
def test_pictures_of_another_kind_are_refused_before_any_work(
    script: str, name: str, call: Call, tmp_path: Path
) -> None:
    code, said = call(script, tmp_path / name, tmp_path / "no run")
    assert (code, f"{name}' must end in .jpg or .png" in said) == (2, True)
