"""`attnbench flops` as a user calls it: what it counts, what it prints, how it exits."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import attnbench
from attnbench.cost.flops import WAN_MODELS, WanConfig, forward_flops
from attnbench.cost.flops.paper import TOLERANCE
from attnbench.cost.flops.vmoba_tables import VMOBA_TABLES
from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.grid import Grid
from attnbench.report.terminal.flops import tera

Call = Callable[..., tuple[int, str, str]]
SMALL = ("--grid", "3x5x7", "--heads", "2", "--head-dim", "32", "--inputs", "gaussian")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, command_line: Call) -> Call:
    """Call the command; return exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "200")
    return partial(command_line, "flops")


def document(call: Call, *words: str) -> dict[str, Any]:
    code, out, err = call(*words, "--json")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_cells_are_counted_from_the_first_heads_mask(call: Call) -> None:
    found = document(call, *SMALL, "--method", "vmoba", "--method", "full", "--batch", "2", "--seed", "3")
    shape = resolve_shape(grid="3x5x7", heads=2, head_dim=32, batch=2)
    inputs = make_inputs("gaussian", shape, heads=1, dtype=torch.float32, device=torch.device("cpu"), seed=3)
    *sparse, full = found["cells"]
    assert [cell["layer"] for cell in sparse] == [0, 1, 2]
    for cell in sparse:
        plan = attnbench.select(inputs.q, inputs.k, method="vmoba", grid="3x5x7", layer=cell["layer"])
        kept = int(plan.token_mask().sum())
        assert cell["pairs"] == 2 * kept
        assert cell["flops_algorithmic"] == 2 * kept * 4 * 32
        assert cell["density"] == kept / (2 * 105**2)
        blocks = plan.pattern.keep.shape[3]
        assert cell["flops_selection"] == 2 * 2 * (105 * 32 + 105 * blocks * 2 * 32)
        assert cell["flops_executed"] >= cell["flops_algorithmic"] + cell["flops_selection"]
    dense = 2 * 2 * 105**2 * 4 * 32
    assert [cell["flops_dense"] for cell in found["cells"]] == 4 * [dense]
    assert (full["method"], full["flops_executed"], full["flops_selection"]) == ("full", dense, 0)
    assert (found["heads"], found["heads_planned"], found["forward"]) == (2, 1, None)


def test_without_a_method_it_is_full_attention_and_settings_and_layers_are_heard(call: Call) -> None:
    (full,) = document(call, *SMALL)["cells"]
    assert (full["method"], full["density"]) == ("full", 1)
    (cell,) = document(call, *SMALL, "--method", "moba", "--layers", "5", "--set", "topk=1", "--set", "blocks=3")[
        "cells"
    ]
    assert cell["layer"] == 5
    assert cell["density"] == pytest.approx(1 / 3)
    assert json.loads(cell["settings"])["topk"] == 1


def test_shapes_are_given_by_pixels_and_text(call: Call) -> None:
    video = ("--height", "96", "--width", "160", "--frames", "9", "--model", "cogvideox-5b")
    found = document(call, *video, "--text-tokens", "7+3", "--inputs", "gaussian", "--quiet")
    tokens = 3 * 6 * 10 + 10
    assert (found["grid"], found["text_tokens"]) == ("3x6x10", [7, 3])
    assert found["cells"][0]["flops_dense"] == 48 * tokens**2 * 4 * 64


def test_backward_adds_two_and_a_half_times_the_pairs(call: Call) -> None:
    options = (*SMALL, "--method", "moba", "--set", "blocks=4", "--set", "topk=2")
    (forward,), (both,) = (document(call, *options, *more)["cells"] for more in ((), ("--direction", "fwdbwd")))
    for count in ("flops_dense", "flops_algorithmic"):
        assert both[count] == 3.5 * forward[count]
    assert both["flops_selection"] == forward["flops_selection"] > 0


@pytest.mark.parametrize("direction", ["fwd", "fwdbwd"])
def test_a_forward_pass_of_the_model_has_the_methods_self_attention(direction: str, call: Call) -> None:
    options = ("--grid", "6x6x8", "--model", "wan2.1-1.3b", "--inputs", "gaussian", "--direction", direction)
    found = document(call, *options, "--method", "vmoba", "--method", "full")
    dense = forward_flops(WAN_MODELS["wan2.1-1.3b"], Grid(6, 6, 8))
    assert found["forward"]["flops"] == dense.total == sum(found["forward"]["parts"].values())
    vmoba, full = found["forward"]["methods"]
    cells = found["cells"][:3]
    pairs = sum(4 * 128 * cell["pairs"] + cell["flops_selection"] for cell in cells) * 30 // 3
    assert vmoba["flops"] == dense.total - dense.self_pairs + pairs
    assert vmoba["density"] == pytest.approx(sum(cell["density"] for cell in cells) / 3)
    assert vmoba["layers"] == [0, 1, 2]
    assert full["flops"] == dense.total


def test_the_model_at_its_size_takes_283_tflop(call: Call) -> None:
    code, out, _ = call("--inputs", "gaussian")
    assert code == 0
    assert "one forward pass of wan2.1-1.3b, 512 text tokens: 283.00 TFLOP" in out


@pytest.mark.parametrize("other", [("--heads", "4"), ("--head-dim", "64"), ("--model", "mini")])
def test_a_shape_that_is_of_no_wan_model_has_no_forward_pass(other: tuple[str, str], call: Call) -> None:
    assert document(call, "--inputs", "gaussian", *other)["forward"] is None


def test_the_table_says_how_plans_were_made_and_for_whom(call: Call) -> None:
    code, out, _ = call(*SMALL, "--method", "vmoba", "--method", "sta")
    assert code == 0
    assert "Plans are made for the first of 2 heads, from gaussian inputs on the cpu" in out
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if line and line[-1] == "reference"] == ["vmoba"] * 3 + ["sta"]


def test_the_papers_tables_are_printed_with_a_verdict_each(call: Call) -> None:
    code, out, _ = call("--paper", "vmoba")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    rows = [line for line in lines if len(line) > 7 and line[0] in ("1", "2", "5") and "×" in line[1]]
    assert len(rows) == len(VMOBA_TABLES)
    for row, printed in zip(rows, VMOBA_TABLES, strict=True):
        assert row[1:3] == [printed.size, printed.method]
        assert f"{printed.tflop:,.2f}" in row
        assert ("agrees" in row) != ("differs" in row[:9])
    assert "agrees: within 0.05%; 25 of 30 rows agree, 5 differ" in out
    assert "table 1, 81×720×1280, VMoBA: 2/10/9 of 7/40/36 blocks: 469.43, differs" in out


def test_the_papers_tables_are_there_for_machines(call: Call) -> None:
    found = document(call, "--paper", "vmoba")
    assert found["tolerance"] == TOLERANCE
    assert [row["printed_tflop"] for row in found["rows"]] == [row.tflop for row in VMOBA_TABLES]
    for row in found["rows"]:
        assert row["difference_tflop"] == pytest.approx(row["printed_tflop"] - row["ours_tflop"])
        near = abs(row["difference_tflop"]) <= TOLERANCE * row["ours_tflop"]
        assert row["verdict"] == ("agrees" if near else "differs")


@pytest.fixture
def small_wan(monkeypatch: pytest.MonkeyPatch) -> WanConfig:
    """Make the default model small, where counting the published one would only take longer."""
    pytest.importorskip("diffusers")
    small = WanConfig("wan2.1-1.3b", layers=2, heads=3, head_dim=16, ffn_dim=40, source="", text_dim=24, freq_dim=32)
    monkeypatch.setitem(WAN_MODELS, "wan2.1-1.3b", small)
    return small


def test_check_puts_both_counters_beside_the_closed_form(small_wan: WanConfig, call: Call) -> None:
    code, out, err = call("--check", "--grid", "3x4x5", "--batch", "2")
    assert (code, err) == (0, "")
    lines = {line.split("  ")[0].strip(): line.split() for line in out.splitlines()}
    ours = forward_flops(small_wan, Grid(3, 4, 5), batch=2)
    assert lines["ffn"][1:] == [tera(ours.ffn), tera(ours.ffn), "0", tera(ours.ffn), "0"]
    assert lines["self pairs"][2:] == [tera(ours.self_pairs), tera(ours.self_pairs), "0", "not", "seen"]
    assert "fvcore does not see self pairs and cross pairs" in out
    assert "scaled_dot_product_attention 4×" in out
    assert "agrees (tolerance 0.01%" in out


def test_check_is_there_for_machines(small_wan: WanConfig, call: Call) -> None:
    found = document(call, "--check", "--grid", "1x2x3")
    ours = forward_flops(small_wan, Grid(1, 2, 3))
    torchs, fvcores = found["counters"]
    assert found["agrees"]
    assert torchs["flops"] == ours.total == found["closed_form"]["flops"]
    assert torchs["parts"] == ours.parts
    assert fvcores["flops"] == ours.total - ours.self_pairs - ours.cross_pairs
    assert fvcores["parts"]["self_pairs"] is None


def test_check_fails_where_a_counter_differs(small_wan: WanConfig, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    # The closed form of a model whose feed-forward part is a thousandth wider than the modules'.
    wider = dataclasses.replace(small_wan, ffn_dim=small_wan.ffn_dim + 1)
    monkeypatch.setattr(
        "attnbench.cost.flops.wan.forward_flops", lambda _, *args, **rest: forward_flops(wider, *args, **rest)
    )
    code, out, _ = call("--check", "--grid", "1x2x3")
    assert code == 1
    assert "differs: FlopCounterMode, fvcore (tolerance" in out


def test_without_diffusers_check_says_what_to_install(monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    code, out, err = call("--check")
    assert (code, out) == (2, "")
    assert err == "attnbench: counting real modules needs diffusers: pip install 'attnbench[models]'\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--paper", "vmobe"), "unknown paper 'vmobe': did you mean 'vmoba'?"),
        (("--paper", "vmoba", "--res", "720p"), "--paper vmoba prints what the paper has; leave out --res"),
        (("--check", "-m", "vmoba", "--seed", "1"), "one forward pass with full attention; leave out --method, --seed"),
        (("--check", "--model", "hunyuan"), "--model hunyuan has no closed form to check: known are wan2.1-1.3b"),
        (("--method", "vmobe"), "unknown method 'vmobe'"),
        (("--res", "1080p"), "unknown resolution '1080p'"),
        ((*SMALL, "--direction", "bwd"), "direction 'bwd' must be fwd or fwdbwd"),
        ((*SMALL, "--method", "vmoba", "--engine", "sdpa"), "engine 'sdpa'"),
        (("--frames", "80"), "frames 80 must be of the form 4k+1"),
        ((*SMALL, "--batch", "0"), "batch 0 must be a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(words: tuple[str, ...], said: str, call: Call) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("attnbench: ")
    assert len(err.splitlines()) == 1


def test_several_models_are_counted_each_as_by_itself(call: Call) -> None:
    asked = ("--grid", "4x6x8", "--inputs", "gaussian", "--method", "sta")
    found = document(call, *asked, "--models", "wan2.1-1.3b,wan2.1-14b", "--models", "hunyuan")["models"]
    assert found == [document(call, *asked, "--model", name) for name in ("wan2.1-1.3b", "wan2.1-14b", "hunyuan")]
    code, out, _ = call(*asked, "--models", "wan2.1-1.3b,wan2.1-14b")
    assert (code, out.count("TFLOP of one attention call")) == (0, 2)
    code, _, said = call(*asked, "--models", "mini", "--model", "mini")
    assert (code, "--model mini and --models say the same" in said) == (2, True)
