from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attnbench.kernels.engines import ENGINES, Task, choose_engine, dense_engines, get_engine, strictly
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.pattern import BlockPattern
from attnbench.kernels.plan import Plan
from attnbench.kernels.rule import causal

Helper = Callable[..., Any]  # a fixture that is a function, see conftest.py

LAYOUT = Layout(Grid(2, 3, 4))
TASK = Task(torch.device("cpu"), torch.float32, 8, 4, 2, False, False)


def make_plan(*, full: bool) -> Plan:
    offsets = torch.tensor([0, 24] if full else [0, 10, 24])
    blocks = len(offsets) - 1
    keep = torch.ones(blocks, blocks, dtype=torch.bool).tril()[None, None]
    return Plan(LAYOUT, 2, 4, BlockPattern(offsets, offsets, keep, is_full=full))


def qkv(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, 24, 8, generator=random).to(dtype) for heads in (4, 2, 2)]


def test_an_unknown_engine_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="unknown engine 'referense': did you mean 'reference'"):
        get_engine("referense")
    with pytest.raises(BadInput, match=r"unknown engine 'zzz': known: .*auto.*reference.*sdpa"):
        choose_engine("zzz", make_plan(full=True), TASK)


def test_an_engine_that_is_not_available_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(ENGINES["sdpa"], name="absent", available=lambda: "it needs a machine from the future")
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", {"absent": absent})
    with pytest.raises(Unsupported, match="engine 'absent' is not available: it needs a machine from the future"):
        choose_engine("absent", make_plan(full=True), TASK)
    with pytest.raises(Unsupported, match="no engine can serve: absent it needs a machine from the future"):
        choose_engine("auto", make_plan(full=True), TASK)


def test_auto_takes_the_first_engine_that_serves() -> None:
    assert choose_engine("auto", make_plan(full=True), TASK).name == "sdpa"
    assert choose_engine("auto", make_plan(full=True), replace(TASK, return_lse=True)).name == "reference"
    assert choose_engine("auto", make_plan(full=False), TASK).name == "reference"
    assert choose_engine("reference", make_plan(full=True), TASK).name == "reference"


def test_auto_says_once_why_a_gpu_runs_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = replace(ENGINES["triton"], available=lambda: None, supports=lambda plan, task: "runs head_dim up to 128")
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", {"triton": refuses, "reference": ENGINES["reference"]})
    monkeypatch.setattr("attnbench.kernels.engines._said", set())
    on_gpu = replace(TASK, device=torch.device("cuda"))
    with pytest.warns(RuntimeWarning, match="on engine 'reference'.* for engine 'triton' runs head_dim up to 128"):
        assert choose_engine("auto", make_plan(full=False), on_gpu).name == "reference"
    assert choose_engine("auto", make_plan(full=False), on_gpu).name == "reference"  # warnings are errors
    assert choose_engine("reference", make_plan(full=False), on_gpu).name == "reference"


def test_strictly_auto_never_takes_plain_torch_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = replace(ENGINES["triton"], available=lambda: None, supports=lambda plan, task: "runs head_dim up to 128")
    engines = {"triton": refuses, "reference": ENGINES["reference"]}
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", engines)
    plan, on_gpu = make_plan(full=False), replace(TASK, device=torch.device("cuda"))
    with strictly():
        with pytest.raises(Unsupported, match="triton runs head_dim up to 128; reference is plain torch"):
            choose_engine("auto", plan, on_gpu)
        with strictly(False), pytest.raises(Unsupported, match="reference is plain torch"):
            choose_engine("auto", plan, on_gpu)
        assert choose_engine("reference", plan, on_gpu).name == "reference", "by name it can be had"
        assert choose_engine("auto", plan, TASK).name == "reference", "a CPU has nothing faster"
        engines["triton"] = replace(refuses, supports=lambda plan, task: None)
        assert choose_engine("auto", plan, on_gpu).name == "triton"
        engines["triton"] = refuses
    monkeypatch.setattr("attnbench.kernels.engines._said", set())
    with pytest.warns(RuntimeWarning, match="plain torch"):
        assert choose_engine("auto", plan, on_gpu).name == "reference", "it ends with the context"


def test_sdpa_refuses_what_it_cannot_run() -> None:
    with pytest.raises(Unsupported, match="'sdpa' runs full attention only, and this plan is sparse"):
        choose_engine("sdpa", make_plan(full=False), TASK)
    with pytest.raises(Unsupported, match="'sdpa' does not return the log-sum-exp"):
        choose_engine("sdpa", make_plan(full=True), replace(TASK, return_lse=True))
    full = make_plan(full=True)
    ruled = replace(full, pattern=replace(full.pattern, rule=causal(), is_full=False))
    with pytest.raises(Unsupported, match="full attention only"):
        choose_engine("sdpa", ruled, TASK)


@pytest.mark.parametrize("name", ["reference", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_dtypes_that_do_not_run_are_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(Unsupported, match=f"runs float64, float32, bfloat16 and float16, not {dtype}"):
        choose_engine(name, make_plan(full=True), replace(TASK, dtype=dtype))
    with pytest.raises(Unsupported, match="no engine can serve"):
        choose_engine("auto", make_plan(full=True), replace(TASK, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_engine_agrees_on_full_attention(dtype: torch.dtype, oracle: Helper) -> None:
    plan, (q, k, v) = make_plan(full=True), qkv(dtype)
    expected, _ = oracle(q, k, v, torch.ones(2, 4, 24, 24, dtype=torch.bool), 0.3)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    for engine in ENGINES.values():
        if engine.available() or engine.supports(plan, replace(TASK, dtype=dtype)):
            continue
        output, _ = engine.attend(q, k, v, plan, 0.3, False)
        assert output.dtype == dtype
        torch.testing.assert_close(output.double(), expected, atol=tolerance, rtol=0)
        assert engine.executed_pairs(plan) == 2 * 4 * 24 * 24


def test_engines_go_by_the_name_they_are_found_under_and_say_what_they_are() -> None:
    for name, engine in ENGINES.items():
        assert engine.name == name
        assert engine.summary
        assert engine.available() is not None or engine.version()
    assert ENGINES["sdpa"].version() == f"torch {torch.__version__}"
    assert ENGINES["sdpa"].dense


def test_a_task_is_read_off_the_tensors() -> None:
    q, k, v = qkv(torch.bfloat16)
    assert Task.of(q, k, v) == replace(TASK, dtype=torch.bfloat16)
    assert Task.of(q, k, v, return_lse=True).return_lse
    assert Task.of(q, k, v.requires_grad_()).needs_grad
    with torch.no_grad():
        assert not Task.of(q, k, v).needs_grad


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_triton_says_what_it_needs_and_auto_passes_it_by() -> None:
    with pytest.raises(Unsupported, match="engine 'triton' is not available: it needs an NVIDIA GPU"):
        get_engine("triton")


def test_auto_passes_by_engines_that_suit_the_plan_badly_or_were_never_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    wasteful = replace(
        ENGINES["reference"], name="wasteful", unsuitable=lambda plan, task: "would compute it all twice"
    )
    untested = replace(ENGINES["reference"], name="untested", tested=False)
    engines = {"wasteful": wasteful, "untested": untested}
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", engines)
    with pytest.raises(Unsupported, match="wasteful would compute it all twice; untested was never tested"):
        choose_engine("auto", make_plan(full=False), TASK)
    for name in engines:
        assert choose_engine(name, make_plan(full=False), TASK).name == name, "by name they can be had"
    engines["reference"] = ENGINES["reference"]
    assert choose_engine("auto", make_plan(full=False), TASK).name == "reference"


def test_an_engine_that_cannot_be_imported_is_passed_by_and_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ImportError("libcudnn.so.9:\ncannot open shared object file")

    broken = replace(ENGINES["reference"], name="broken", load=fail, supports=lambda plan, task: fail())
    monkeypatch.setattr("attnbench.kernels.engines._said", set())
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", {"broken": broken, "reference": ENGINES["reference"]})
    why = r"'broken' is installed and cannot be imported: ImportError: libcudnn.so.9: cannot open shared object file"
    for _ in range(2):
        with pytest.raises(Unsupported, match=f"engine {why}$"):
            choose_engine("broken", make_plan(full=False), TASK)
    with pytest.warns(RuntimeWarning, match=f"engine {why}; engine='auto' goes on without it$"):
        assert choose_engine("auto", make_plan(full=False), TASK).name == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_engine("auto", make_plan(full=False), TASK).name == "reference", "and says so once"
    assert dense_engines() == ["reference"]
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", {"broken": broken})
    with pytest.raises(Unsupported, match="no engine can serve: broken is installed and cannot be imported"):
        choose_engine("auto", make_plan(full=False), TASK)


def test_the_dense_baseline_is_never_an_untested_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    untested = replace(ENGINES["reference"], name="untested", tested=False)
    monkeypatch.setattr("attnbench.kernels.engines.ENGINES", {"untested": untested, "reference": ENGINES["reference"]})
    assert dense_engines() == ["reference"]
    assert [name for name, engine in ENGINES.items() if not engine.tested] == ["flash3", "flash2"]


def test_the_documentation_lists_the_engines_in_the_order_of_auto() -> None:
    text = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| `")]
    assert rows == [f"`{name}`" for name in ENGINES]
