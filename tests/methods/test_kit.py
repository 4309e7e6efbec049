"""What authors of methods import, and the pictures that a method's file draws of itself."""

from __future__ import annotations

import importlib
import runpy
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from attnbench.methods import get_method, kit
from attnbench.methods.registry import BUILT_IN, DEFAULT

# Packages outside this repository import these: they stay where they are.
PROMISED = {
    "attnbench.methods": ("Call", "Method", "Source"),
    "attnbench.methods.base": ("Call", "Method", "Source", "as_choice", "as_ints", "shrink_axis"),
    "attnbench.methods.text": ("keep_text", "route_text"),
    "attnbench.kernels.grid": ("Grid", "Layout", "coordinates"),
    "attnbench.kernels.partition": ("Partition", "partition_cuboids", "partition_ranges", "whole"),
    "attnbench.kernels.pattern": ("BlockPattern", "RoutedPattern"),
    "attnbench.kernels.plan": ("Plan",),
    "attnbench.kernels.cuts": ("Cut", "route"),
    "attnbench.kernels.selection_ops": (
        "cut_threshold_head", "cut_threshold_query", "cut_top_k_head", "cut_top_k_query", "pool_means", "pooling_flops",
        "score_blocks", "scoring_flops",
    ),
    "attnbench.kernels.errors": ("AttnbenchError", "BadInput", "Unsupported"),
    "attnbench.kernels.engines": ("Engine", "Task"),
}  # fmt: skip


@pytest.mark.parametrize("module", PROMISED)
def test_what_other_packages_import_is_where_it_was(module: str) -> None:
    for name in PROMISED[module]:
        assert hasattr(importlib.import_module(module), name), name


def test_the_kit_exports_what_it_lists_and_nothing_else() -> None:
    public = {
        name for name, value in vars(kit).items() if not name.startswith("_")
        and (not isinstance(value, types.ModuleType) or name in ("row_ops", "selection_ops"))
    }  # fmt: skip
    assert set(kit.__all__) == public
    for module in ("grid", "partition", "pattern", "plan", "cuts"):
        for name in PROMISED[f"attnbench.kernels.{module}"]:
            assert getattr(kit, name) is getattr(importlib.import_module(f"attnbench.kernels.{module}"), name)


@pytest.mark.parametrize(
    "name", [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow) for name in BUILT_IN]
)
def test_a_methods_file_draws_its_mask(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = BUILT_IN[name].partition(":")[0]
    monkeypatch.setattr(sys, "argv", [module, "--out", str(tmp_path / "new" / "mask.png")])
    monkeypatch.delitem(sys.modules, module, raising=False)
    runpy.run_module(module, run_name="__main__")
    kinds = get_method(name).distinct_layers(get_method(name).settings(), 30)
    expected = ["mask.png"] if len(kinds) == 1 else [f"mask-layer{layer}.png" for layer in kinds]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == expected
    for path in (tmp_path / "new").iterdir():
        with Image.open(path) as picture:
            assert min(picture.size) > 500


def test_options_choose_grid_settings_layer_and_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "one.svg"
    words = ["--grid", "3x4x5", "--set", "select=topk", "--set", "topk=1", "--layer", "2", "--out", str(out)]
    kit.main(get_method("vmoba"), words)
    assert out.read_bytes().startswith(b"<?xml")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: Plan 3×4×5, 1 head, density")
    kit.main(get_method("vmoba"), [*words, "--head", "1"])
    assert "2 heads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--grid", "99x99x99"], "sta: grid 99x99x99 has 970,299 tokens"),
        (["--grid", "3x4"], "sta: grid '3x4' must be three positive whole numbers"),
        (["--set", "tiles=3"], "sta: unknown setting of 'sta' 'tiles': did you mean 'tile'"),
        (["--set", "tile"], "sta: --set 'tile' must be name=value"),
        (["--out", "mask.jpg"], "sta: --out 'mask.jpg' must end in .png or .svg"),
        (["--head", "-1"], "sta: --head -1 must be at least 0"),
        (["--out", "/dev/null/mask.png"], "sta: --out '/dev/null/mask.png' cannot be written"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        kit.main(get_method("sta"), words)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err
