"""``attnbench analyze`` on captures, modelled inputs and a small model: rows, verdicts, pages, and what is refused."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import attnbench
from attnbench.analysis import session
from attnbench.cli import app
from attnbench.mini.config import PRESETS
from attnbench.mini.model import MiniTransformer
from attnbench.mini.stored import save_mini
from attnbench.results.load import read

GRID, TOKENS = "2x8x8", 128
FIXED = ["run_id", "model", "method", "layer", "head", "step", "measure", "value", "lo", "hi", "queries", "status",
         "reason"]  # fmt: skip
CHANGE = ("block_mass_correlation", "mask_iou")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MiniTransformer(PRESETS["tiny"])
        for parameter in network.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.2)
    save_mini(network, network.state_dict(), path)
    return path


def write_capture(path: Path, tensors: dict[str, Any], **header: str) -> Path:
    save_file(tensors, path, {"grid": GRID, "text": "0,0", "model": "wan", "prompt": "a cat", **header})
    return path


def some(layers: int = 2, steps: int = 2, heads: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"layer{layer}.step{step}.{name}": torch.randn(1, heads, TOKENS, 16, generator=generator)
        for layer in range(layers)
        for step in range(steps)
        for name in "qkv"
    }


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["analyze", *arguments, "--quiet"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        if not isinstance(done.exception, attnbench.AttnbenchError):
            raise done.exception
        return 2, str(done.exception)
    return done.exit_code, done.output


def test_a_capture_gives_a_row_for_each_measure_of_each_head_layer_and_step() -> None:
    write_capture(Path("q.safetensors"), some())
    code, output = run("capture:q.safetensors", "--out", "run", "--json", "-m", "vmoba")
    assert code == 0
    table = attnbench.load_analysis("run")
    assert list(table.columns)[:3] == ["run_id", "model", "method"]
    assert set(FIXED) <= set(table.columns)
    entropy = table[table["measure"] == "entropy"]
    assert len(entropy) == 2 * 2 * 3
    assert set(entropy["queries"]) == {TOKENS}
    assert (entropy["lo"] == entropy["value"]).all()
    change = table[table["measure"] == "block_mass_correlation"]
    assert set(change[change["status"] == "skipped"]["step"]) == {0}
    assert len(change[change["status"] == "ok"]) == 2 * 3
    assert set(table[table["measure"] == "mask_iou"]["method"]) == {"vmoba"}
    document = json.loads(output)
    assert len(document["rows"]) == len(table)
    assert [row["premise"] for row in document["premises"]] == [row["premise"] for row in table.attrs["premises"]]
    assert set(table["model"]) == {"wan"}


def test_one_layer_and_step_skips_what_needs_more_and_says_why() -> None:
    tensors = {name.removeprefix("layer0.step0."): x for name, x in some(1, 1).items()}
    write_capture(Path("q.safetensors"), tensors, points="layer4.step7")
    assert run("--inputs", "capture:q.safetensors", "--out", "run")[0] == 0
    found = read("run")
    assert {(row.layer, row.step) for row in found.analysis} == {(4, 7)}
    reasons = {row.reason for row in found.analysis if row.status == "skipped" and row.measure.endswith("correlation")}
    assert reasons == {"there is no earlier step of this layer to compare with"}
    assert {row.verdict for row in found.premises if row.premise == "slow-change"} == {"undecided"}


def test_layers_and_steps_are_chosen_and_queries_sampled() -> None:
    write_capture(Path("q.safetensors"), some())
    assert run("capture:q.safetensors", "--layers", "1", "--steps", "1", "--queries", "60", "--out", "run")[0] == 0
    rows = read("run").analysis
    assert {(row.layer, row.step) for row in rows} == {(1, 1)}
    entropy = next(row for row in rows if row.measure == "entropy")
    assert entropy.queries == 60
    assert entropy.lo is not None
    assert entropy.hi is not None
    assert entropy.value is not None
    assert entropy.lo < entropy.value < entropy.hi


def test_a_premise_whose_measure_needs_all_queries_says_so() -> None:
    write_capture(Path("q.safetensors"), some(1, 1, 6))
    for queries, folder in (("60", "some"), (str(TOKENS), "all")):
        assert run("capture:q.safetensors", "--queries", queries, "--out", folder)[0] == 0
    (few,) = (row for row in read("some").premises if row.premise == "sinks")
    assert (few.verdict, few.value) == ("undecided", None)
    assert few.reason == f"which keys receive most can only be told from all queries: --queries {TOKENS}"
    (every,) = (row for row in read("all").premises if row.premise == "sinks")
    assert every.value is not None


def test_the_page_shows_verdicts_and_says_what_was_not_wan() -> None:
    assert run("--inputs", "gaussian", "--grid", GRID, "--heads", "6", "--head-dim", "16", "--out", "run")[0] == 0
    done = CliRunner().invoke(app, ["report", "run", "--out", "page.html"])
    assert done.exit_code == 0, done.output
    page = Path("page.html").read_text()
    assert "What attention looks like" in page
    assert "They are not those of Wan or any other model." in page
    assert "does not hold" in page  # random numbers are not local
    assert "How few pairs hold the weight" in page


def test_a_model_that_runs_is_averaged_over_prompts(weights: Path) -> None:
    arguments = ("--model", "mini", "--weights", str(weights), "--sampler-steps", "1", "--device", "cpu")
    assert run(*arguments, "--classes", "3:north,circle:west", "--out", "two")[0] == 0
    rows = read("two").analysis
    entropy = [row for row in rows if row.measure == "entropy"]
    assert {row.prompts for row in entropy} == {2}
    assert {(row.layer, row.step) for row in entropy} == {(0, 0), (1, 0), (2, 0)}
    for prompt, folder in (("3 moving north", "a"), ("circle moving west", "b")):
        assert run(*arguments, "--prompt", prompt, "--out", folder)[0] == 0
    single = [{(r.layer, r.step, r.head): r.value for r in read(f).analysis if r.measure == "entropy"} for f in "ab"]
    for row in entropy:
        values = [each[row.layer, row.step, row.head] or 0 for each in single]
        assert row.value == pytest.approx(sum(values) / 2, rel=1e-5)
        assert (row.lo, row.hi) == pytest.approx((min(values), max(values)), rel=1e-5)


def test_an_interrupt_keeps_the_prompts_that_were_finished(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    see, calls = session.see, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return see(*arguments)

    monkeypatch.setattr(session, "see", interrupted)
    code, output = run(
        "--weights", str(weights), "--sampler-steps", "1", "--classes", "3:north,circle:west", "--device", "cpu",
        "--out", "run",
    )  # fmt: skip
    assert code == 130
    assert "what was measured is in run" in output
    rows = read("run").analysis
    assert {row.layer for row in rows if row.measure == "entropy"} == {0, 1, 2}
    assert {row.prompts for row in rows} == {1}


def test_a_full_disk_is_told_in_a_sentence_and_keeps_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    write_capture(Path("q.safetensors"), some())
    fsync, written = os.fsync, []

    def full(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    code, output = run("capture:q.safetensors", "--out", "run")
    assert code == 2
    assert "No space left on device; start a new run in another place with --out" in output
    assert {(row.layer, row.step) for row in read("run").analysis} == {(0, 0)}


def test_a_capture_without_a_grid_takes_that_of_the_command() -> None:
    save_file(some(1, 1), "q.safetensors")
    code, output = run("capture:q.safetensors", "--out", "a")
    assert (code, "does not state its token grid" in output) == (2, True)
    assert run("capture:q.safetensors", "--grid", GRID, "--out", "b")[0] == 0


def test_figures_that_no_journal_holds_are_skipped_with_their_reason() -> None:
    write_capture(Path("q.safetensors"), {name: x * 1e17 for name, x in some(1, 2).items()})
    code, output = run("capture:q.safetensors", "--out", "run")
    assert code == 0, output
    rows = read("run").analysis
    energy = [row for row in rows if row.measure == "energy"]
    assert {row.status for row in energy} == {"skipped"}
    assert all("is too large to be recorded: scale what was captured" in row.reason for row in energy)
    assert {row.value for row in rows if row.measure == "entropy"} == {0.0}
    assert CliRunner().invoke(app, ["report", "run", "--out", "page.html"]).exit_code == 0


def test_text_tokens_that_a_capture_states_may_be_asked_for() -> None:
    write_capture(Path("q.safetensors"), some(1, 1))
    assert run("capture:q.safetensors", "--grid", GRID, "--text-tokens", "0", "--out", "run")[0] == 0


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: x for name, x in some(1, 2, 6).items() if name[-1] not in names}


def no_q() -> dict[str, torch.Tensor]:
    return without("q")


@pytest.mark.parametrize("lost", ["k", "kv"])
def test_a_capture_without_k_tells_of_queries_and_why_it_tells_no_more(lost: str) -> None:
    write_capture(Path("all.safetensors"), some(1, 2, 6))
    write_capture(Path("q.safetensors"), without(*lost))
    for name in ("all", "q"):
        code, output = run(f"capture:{name}.safetensors", "--out", name, "--json")
        assert code == 0, output
    every, found = read("all"), read("q")
    queries = {(r.step, r.head, r.measure): r.value for r in every.analysis if "similarity_q" in r.measure and r.value}
    assert queries
    assert {(r.step, r.head, r.measure): r.value for r in found.analysis if r.status == "ok"} == queries
    reasons = {row.reason for row in found.analysis if row.measure == "entropy"}
    assert reasons == {f"the capture has no k of layer 0, step {step}, and maps are of q and k" for step in (0, 1)}
    assert {row.verdict for row in found.premises} == {"undecided"}
    assert {row.reason for row in found.premises if row.premise == "locality"} <= reasons
    assert CliRunner().invoke(app, ["report", "q", "--out", "page.html"]).exit_code == 0


def test_a_capture_without_v_tells_all_but_what_is_of_outputs() -> None:
    write_capture(Path("all.safetensors"), some(1, 2, 6))
    write_capture(Path("qk.safetensors"), without("v"))
    for name in ("all", "qk"):
        code, output = run(f"capture:{name}.safetensors", "--out", name, "-m", "vmoba", "-m", "svg1")
        assert code == 0, output

    def values(folder: str) -> dict[tuple[object, ...], float]:
        rows = [row for row in read(folder).analysis if row.value is not None and row.method != "svg1"]
        return {(row.method, row.settings, row.step, row.head, row.measure): row.value or 0.0 for row in rows}

    every, found = values("all"), values("qk")
    assert {name[-1] for name in every.keys() - found.keys()} == {"energy", "approximation_error"}
    assert all(every[name] == value for name, value in found.items())
    rows = read("qk").analysis
    outputs = [row for row in rows if row.measure in ("energy", "approximation_error")]
    assert {row.status for row in outputs} == {"skipped"}
    assert {row.reason for row in outputs} == {
        f"the capture has no v of layer 0, step {step}, and outputs are of v" for step in (0, 1)
    }
    (svg1,) = {row.reason for row in rows if row.method == "svg1"}
    assert svg1.startswith("method 'svg1' selects by the values too")


Values = dict[tuple[str, str, int | None, int | None, int | None, str], float]
"""By method, settings, layer, step, head and measure."""


def values_of(folder: str) -> Values:
    return {
        (row.method, row.settings, row.layer, row.step, row.head, row.measure): row.value
        for row in read(folder).analysis
        if row.value is not None
    }


@pytest.mark.parametrize("kv_heads", [3, 1])
@pytest.mark.parametrize("lost", ["k", "v", "kv"])
def test_a_part_without_a_tensor_costs_itself_and_comparisons_with_it_alone(lost: str, kv_heads: int) -> None:
    """Step 1 of layer 0 lacks something, and so does the first part of the file if both are lost."""
    tensors = {name: x if name[-1] == "q" else x[:, :kv_heads].clone() for name, x in some(2, 4).items()}
    parts = [(0, 1)] if len(lost) == 1 else [(0, 0), (0, 1)]
    missing = {f"layer{layer}.step{step}.{name}" for layer, step in parts for name in lost}
    write_capture(Path("all.safetensors"), tensors)
    write_capture(Path("some.safetensors"), {name: x for name, x in tensors.items() if name not in missing})
    for name in ("all", "some"):
        code, output = run(f"capture:{name}.safetensors", "--out", name, "-m", "moba", "-m", "svg1", "-m", "sta")
        assert code == 0, output
    every, found = values_of("all"), values_of("some")
    assert all(every[key] == value for key, value in found.items())

    def is_lost(key: tuple[Any, ...]) -> bool:
        method, _, layer, step, _, measure = key
        if (layer, step) in parts:
            of_v = method == "svg1" or measure in ("energy", "approximation_error")
            return "self_similarity_q" not in measure if "k" in lost else of_v
        if (layer, step) != (0, 2):
            return False
        return measure == "mask_iou" and method == "svg1" if lost == "v" else measure in CHANGE

    assert {key for key in every if is_lost(key)} == every.keys() - found.keys()
    rows = read("some").analysis
    name = lost[0]
    (reason,) = {row.reason for row in rows if row.measure == "energy" and (row.layer, row.step) == (0, 1)}
    assert reason.startswith(f"the capture has no {name} of layer 0, step 1, and ")
    after = {row.method: row.reason for row in rows if row.measure in CHANGE and (row.layer, row.step) == (0, 2)}
    if lost == "v":
        assert after["svg1"].startswith("there is no mask of the step before to compare with: method 'svg1' selects by")
    else:
        assert after[""] == after["moba"] == after["svg1"] == "there is no k of the step before to compare with"


def with_nan() -> dict[str, torch.Tensor]:
    tensors = some(1, 1)
    tensors["layer0.step0.v"][0, 0, 0, 0] = float("nan")
    return tensors


def without_one_q() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in some().items() if name != "layer1.step0.q"}


@pytest.mark.parametrize(
    ("tensors", "arguments", "said"),
    [
        (no_q, (), "has no tensor"),
        (without_one_q, (), "has layer1.step0.k and no layer1.step0.q"),
        (with_nan, (), "layer0.step0.v holds 1 NaN or Inf values"),
        (some, ("--grid", "2x8x9"), "has token grid 2x8x8, and 2x8x9 was asked for"),
        (some, ("--layers", "5"), "has no layer 5: it holds 0, 1"),
        (some, ("--steps", "9"), "has no step 9: it holds 0, 1"),
        (some, ("--queries", "0"), "queries"),
        (some, ("--block", "1,2"), "block is [1, 2]; it must be three whole numbers"),
        (some, ("--block", "wide"), "--block 'wide' must be"),
        (some, ("--prompt", "a cat"), "need no model that runs: drop --prompt"),
        (some, ("--inputs", "video"), "name two kinds of inputs: drop one"),
        (some, ("-m", "vmobe"), "vmoba"),
        (some, ("--heads", "3"), "has its own shape and dtype: drop --heads"),
        (some, ("--dtype", "float16"), "has its own shape and dtype: drop --dtype"),
        (some, ("--text-tokens", "5"), "has its own shape and dtype: drop --text-tokens"),
        (some, ("--grid", GRID, "--text-tokens", "5"), "the video 0,0, and 0,5 was asked for"),
        (some, ("--res", "480p"), "has its own shape and dtype: drop --res"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_kept(
    tensors: Any, arguments: tuple[str, ...], said: str
) -> None:
    write_capture(Path("q.safetensors"), tensors())
    code, output = run("capture:q.safetensors", *arguments, "--out", "run")
    assert (code, said in output) == (2, True), output
    assert not Path("run").exists() or not read("run").analysis


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("capture:none.safetensors",), "'none.safetensors' does not exist"),
        (("q.safetensors",), "'q.safetensors' must be capture:FILE"),
        (("--model", "wam"), "wan"),
        (("--model", "mini", "--layers", "9"), "layer 9 does not exist"),
        (("--model", "mini", "--grid", "2x2x2"), "--grid is for --inputs"),
        (("--inputs", "video", "--layers", "1"), "have one layer and no steps: drop --layers"),
        (("--model", "mini", "--prompt", "a cat"), "unknown class 'a'"),
    ],
)
def test_what_is_asked_for_must_exist(arguments: tuple[str, ...], said: str) -> None:
    code, output = run(*arguments, "--out", "run")
    assert (code, said in output) == (2, True), output
    assert not Path("run").exists()
