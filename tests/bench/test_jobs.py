"""From a request to cells: what is listed, what is filled in, and what is refused in one sentence."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from attnbench.bench.jobs import make_agenda
from attnbench.bench.request import Request, read_request
from attnbench.kernels import engines
from attnbench.kernels.engines import dense_engines
from attnbench.kernels.engines.reference import REFERENCE
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.machine.device import DTYPES, dtype_name, resolve_device, resolve_dtype
from attnbench.methods.entries import Entry


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {"methods": {"sta": {}}, "grid": "3x5x7", "inputs": "gaussian", "device": "cpu"}
    return Request(**fields | changes)


def labels(**changes: Any) -> list[str]:
    return [job.label for job in make_agenda(request(**changes)).jobs]


def test_methods_keep_their_order_and_each_kind_of_layer_is_listed_once() -> None:
    methods: dict[str, Any] = {"vmoba": {}, "full": {}}
    assert labels(methods=methods) == ["vmoba", "vmoba layer 1", "vmoba layer 2", "full"]
    assert labels(methods=methods, grid=None, model="mini") == ["vmoba", "vmoba layer 1", "vmoba layer 2", "full"]


def test_layers_that_are_asked_for_are_listed_and_none_twice() -> None:
    assert labels(methods={"vmoba": {}, "full": {}}, layers=[4, 0, 4]) == [
        "vmoba layer 4", "vmoba", "full layer 4", "full",
    ]  # fmt: skip


def test_settings_are_settled_in_the_cell() -> None:
    agenda = make_agenda(request(methods={"sta": {"tile": [2, 9, 2]}}, heads=4, kv_heads=2, head_dim=64, batch=3))
    cell = agenda.cell(agenda.jobs[0], "reference")
    assert json.loads(cell.settings) == {"tile": [2, 5, 2], "window": [3, 3, 3]}, "clipped to the grid, defaults named"
    assert (cell.grid, cell.batch, cell.heads, cell.kv_heads, cell.head_dim) == ("3x5x7", 3, 4, 2, 64)
    assert (cell.dtype, cell.direction, cell.engine, cell.inputs, cell.seed) == (
        "float32", "fwd", "reference", "gaussian", 0,
    )  # fmt: skip


def identity(ran: str = "reference", **changes: Any) -> str:
    agenda = make_agenda(request(**changes))
    return agenda.cell(agenda.jobs[0], ran).identity


def test_equal_requests_make_equal_cells_and_other_ones_do_not() -> None:
    window = identity(methods={"sta": {"window": [3, 3, 3]}})
    assert identity() == identity() == identity(dtype="fp32") == identity("sdpa")
    assert window == identity(methods={"sta": {"window": (3, 3, 3)}})
    others = [window, identity(seed=1), identity(dtype="bf16"), identity(direction="fwdbwd"), identity(engine="sdpa")]
    assert len({identity(), *others}) == 6


def test_inputs_are_known_by_what_the_file_holds(tmp_path: Path) -> None:
    def of(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return identity(inputs=f"video:{tmp_path / name}")

    assert of("a.mp4", b"one") == of("b.mp4", b"one") != of("a.mp4", b"two")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": {}}, "no method was given"),
        ({"methods": {"stq": {}}}, "unknown method 'stq': did you mean 'sta'?"),
        ({"methods": {"sta": {"windwo": 3}}}, "unknown setting of 'sta' 'windwo': did you mean 'window'?"),
        ({"methods": {"full": {"topk": 3}}}, "unknown setting 'topk': method 'full' has no settings"),
        ({"methods": {"sta": {"window": [2, 3, 3], "tile": [1, 1, 1]}}}, r"window is \(2, 3, 3\): its side 2 along t"),
        ({"methods": {"sta": {"tile": "big"}}}, "tile is 'big'"),
        ({"methods": {"moba": {"topk": 0}}}, "topk is 0"),
        ({"methods": {"moba": {"topk": 2.5}}}, "topk is 2.5"),
        ({"methods": {"moba": {"causal": "yes"}}}, "causal is 'yes'"),
        ({"methods": {"moba": {"blocks": 4, "block_size": 8}}}, "blocks is 4 and block_size is 8"),
        ({"methods": {"vmoba": {"threshold": 0}}}, "threshold is 0; it must be a number above 0 and at most 1"),
        ({"methods": {"vmoba": {"threshold": 1.5}}}, "threshold is 1.5"),
        ({"methods": {"vmoba": {"threshold": float("nan")}}}, "threshold is nan"),
        ({"methods": {"vmoba": {"select": "best"}}}, "select is 'best'"),
        ({"methods": {"vmoba": {"partition": [3, 3]}}}, r"partition is \[3, 3\]"),
        ({"methods": {"sliding-window": {"width": -1}}}, "width is -1"),
        ({"model": "wan"}, "unknown model 'wan'"),
        ({"model": "wan2.1-13b"}, "unknown model 'wan2.1-13b': did you mean 'wan2.1-1.3b'?"),
        ({"grid": None, "res": "480"}, "unknown resolution '480': did you mean '480p'?"),
        ({"grid": None, "frames": 80}, "frames 80 must be of the form 4k.1"),
        ({"grid": "3x5"}, "grid '3x5' must be three positive whole numbers"),
        ({"grid": "3x0x7"}, "must be three positive whole numbers"),
        ({"grid": "3x-5x7"}, "grid '3x-5x7'"),
        ({"grid": "3x5x7", "res": "480p"}, "--grid 3x5x7 already says the tokens: drop --res 480p"),
        ({"grid": "999999999x999999999x999999999"}, "grid 999999999x999999999x999999999 .* needs .* GiB"),
        ({"batch": 10**12}, "batch 1000000000000"),
        ({"heads": 0}, "heads 0 must be"),
        ({"heads": 6, "kv_heads": 4}, "kv_heads 4 must divide heads 6"),
        ({"head_dim": -8}, "head_dim -8"),
        ({"batch": 0}, "batch 0"),
        ({"dtype": "bfloat"}, "unknown dtype 'bfloat': did you mean 'bfloat16'?"),
        ({"direction": "bwd"}, "direction 'bwd' must be fwd or fwdbwd"),
        ({"inputs": "vidoe"}, "unknown inputs 'vidoe': did you mean 'video'?"),
        ({"inputs": "gaussian:x"}, "inputs 'gaussian:x'"),
        ({"inputs": "video:"}, "inputs 'video:' names no file"),
        ({"inputs": "capture"}, "inputs 'capture' names no file"),
        ({"inputs": "video:gone.mp4"}, "'gone.mp4' does not exist"),
        ({"inputs": "video:/"}, "'/' is not a file"),
        ({"inputs": "video:~no-such-user/x.mp4"}, "'~no-such-user/x.mp4' does not exist"),
        ({"inputs": "video:" + "x" * 300}, "does not exist"),
        ({"engine": "refrence"}, "unknown engine 'refrence': did you mean 'reference'?"),
        ({"device": "gpu"}, "device 'gpu' must be cpu or cuda"),
        ({"rounds": 0}, "rounds 0 must be at least 1"),
        ({"budget": 0.0}, "budget 0 must be a number of seconds above 0"),
        ({"budget": -3.0}, "budget -3"),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to 4294967295"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"grid": None, "model": "mini", "layers": [6]}, "layer 6 is not one of the 6 layers of mini"),
        ({"grid": None, "model": "mini", "layers": [-1]}, "layer -1 is not one of the 6 layers of mini"),
    ],
)
def test_what_cannot_be_run_is_refused_with_what_was_typed(changes: dict[str, Any], said: str) -> None:
    make_agenda(request())
    with pytest.raises(BadInput, match=said) as error:
        make_agenda(request(**changes))
    assert "\n" not in str(error.value)


@pytest.fixture
def ghost(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is known and cannot be used here."""
    engine = dataclasses.replace(REFERENCE, name="ghost", available=lambda: "it is not installed")
    monkeypatch.setattr(engines, "ENGINES", {**engines.ENGINES, "ghost": engine})


@pytest.mark.usefixtures("ghost")
def test_an_engine_that_is_not_here_is_refused_with_the_reason() -> None:
    with pytest.raises(Unsupported, match="engine 'ghost' is not available: it is not installed"):
        make_agenda(request(engine="ghost"))


@pytest.mark.usefixtures("ghost")
def test_dense_engines_are_those_that_can_be_used_here() -> None:
    names = dense_engines()
    assert {"sdpa", "reference"} <= set(names)
    assert "ghost" not in names


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"budget": float("nan")}, "budget nan cannot be used"),
        ({"budget": float("inf")}, "budget inf cannot be used"),
        ({"rounds": "many"}, "rounds 'many' cannot be used"),
        ({"colour": 1}, "colour 1 cannot be used"),
    ],
)
def test_fields_that_are_no_request_are_quoted(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        read_request(methods={"sta": {}}, **fields)
    assert "\n" not in str(error.value)


def test_a_request_survives_the_journal() -> None:
    one = request(methods={"vmoba": {"partition": [3, [6, 8], [8, 12, 8]]}}, layers=[0, 2], budget=12.5)
    assert read_request(**json.loads(one.model_dump_json())) == one


def test_cuda_without_a_gpu_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for build, said in ((None, "this torch is a CPU build"), ("13.0", "torch finds no usable NVIDIA GPU")):
        monkeypatch.setattr(torch.version, "cuda", build)
        with pytest.raises(BadInput, match=f"device 'cuda' cannot be used: {said}"):
            resolve_device("cuda")
    assert resolve_device(None) == torch.device("cpu")


def test_a_gpu_is_the_default_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device(None) == resolve_device("cuda") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")


def test_the_default_dtype_is_that_of_the_device() -> None:
    assert resolve_dtype(None, torch.device("cpu")) == torch.float32
    assert resolve_dtype(None, torch.device("cuda")) == torch.bfloat16
    for name in ("bfloat16", "bf16"):
        assert resolve_dtype(name, torch.device("cpu")) == torch.bfloat16
    assert [dtype_name(dtype) for dtype in DTYPES.values()] == list(DTYPES)


def test_one_method_several_times_is_told_apart_and_measured_once_where_it_comes_to_the_same() -> None:
    tile = {"tile": (1, 1, 1), "window": (1, 1, 1)}
    entries = [Entry("sta"), Entry("sta", tile), Entry("sta", {**tile, "window": (1, 1, 1)}), Entry("full")]
    agenda = make_agenda(request(methods=entries))
    assert [job.method.name for job in agenda.jobs] == ["sta", "sta", "full"]
    first, second, full = (job.label for job in agenda.jobs)
    assert first != second
    assert "tile" in first
    assert "tile" in second
    assert full == "full"
    assert len({agenda.cell(job, "sdpa").identity for job in agenda.jobs}) == 3


def test_a_request_of_an_older_run_names_settings_by_method() -> None:
    old = read_request(**{**request().model_dump(), "methods": {"sta": {"window": [1, 1, 1]}, "full": {}}})
    assert old.methods == [Entry("sta", {"window": [1, 1, 1]}), Entry("full")]
    assert read_request(**old.model_dump(mode="json")) == old


@pytest.mark.parametrize(
    ("changes", "alike"),
    [
        ({"grid": None, "model": "wan2.1-1.3b"}, [10, 10, 10]),
        ({"grid": None, "model": "wan2.1-14b"}, [14, 13, 13]),
        ({"grid": None, "model": "wan2.1-1.3b", "layers": [1]}, [10]),
        ({"grid": None, "model": "wan2.1-14b", "layers": [0, 4, 3, 6]}, [5, 13, 5, 4]),
        ({}, [None, None, None]),
    ],
)
def test_a_cell_says_how_many_layers_of_the_model_it_stands_for(changes: dict[str, Any], alike: list[int]) -> None:
    shape = {"heads": None, "head_dim": None}
    agenda = make_agenda(request(methods={"vmoba": {}}, **shape, **changes))
    assert [job.alike for job in agenda.jobs] == alike


def test_dense_layers_are_a_kind_of_their_own_and_dense_steps_come_before_the_state() -> None:
    request = Request(methods={"nabla": {"dense_layers": 2}}, model="wan2.1-1.3b", res="480p", device="cpu")
    assert [(job.layer, job.alike) for job in make_agenda(request).jobs] == [(0, 2), (2, 28)]
    request = Request(methods={"nabla": {"dense_layers": 99}}, model="wan2.1-1.3b", res="480p", device="cpu")
    assert [(job.layer, job.alike) for job in make_agenda(request).jobs] == [(0, 30)]
    asked = Request(
        methods={"nabla": {"dense_layers": 2}}, model="wan2.1-1.3b", res="480p", device="cpu", layers=[1, 5]
    )
    assert [(job.layer, job.alike) for job in make_agenda(asked).jobs] == [(1, 2), (5, 28)]
    request = Request(methods={"svg2": {"dense_steps": 10}}, grid="3x5x7", device="cpu")
    (job,) = make_agenda(request).jobs
    assert job.cycle is not None
    assert (job.cycle.warm, job.step, job.cycle.refresh) == ((10,), 11, 10)


@pytest.mark.parametrize(
    ("changes", "asked", "alike"),
    [
        ({}, None, [(0, 27), (1, 2), (2, 1)]),
        ({}, [29, 7, 2], [(29, 27), (7, 2), (2, 1)]),
        ({"dense_layers": 2}, None, [(0, 2), (2, 1), (3, 26), (7, 1)]),
        ({"dense_layers": 30}, None, [(0, 30)]),
    ],
)
def test_layers_of_the_same_line_of_a_schedule_are_alike(
    changes: dict[str, Any], asked: list[int] | None, alike: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = tmp_path / "s.json"
    lines = {"1": {"1": "window", "2": "full"}, "2": {"1": "share"}, "5": {"2": "full"}, "7": {"1": "window"}}
    path.write_text(json.dumps(lines))
    given = {"schedule": str(path), **changes}
    request = Request(methods={"ditfastattn": given}, model="wan2.1-1.3b", res="480p", device="cpu", layers=asked)
    assert {job.layer: job.alike for job in make_agenda(request).jobs} == dict(alike)
