"""attnbench capture: what is kept is what attention saw, it comes back, and nothing half-written is left."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from attnbench.cli.capture import capture as command
from attnbench.inputs.make import Inputs, make_inputs
from attnbench.inputs.shapes import resolve_shape
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.plan import Plan
from attnbench.methods import Call, get_method
from attnbench.mini.config import PRESETS
from attnbench.mini.model import MiniTransformer
from attnbench.mini.stored import read_tensors, save_mini, write_tensors
from attnbench.models import load
from attnbench.models.capture.collect import Collector, Complete, Point, points_of
from attnbench.models.capture.make import Captured, capture
from attnbench.models.capture.request import CaptureRequest
from attnbench.models.patch import patch
from attnbench.models.random_pipeline import write_random

pytest.importorskip("diffusers")

SIZE = {"frames": 9, "height": 32, "width": 48}
MINI_PROMPT = "3 moving north-east"


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random("wan", tmp_path_factory.mktemp("weights") / "wan")


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = MiniTransformer(PRESETS["tiny"])
    for weight in model.parameters():  # trained ones do not begin as the identity
        torch.nn.init.normal_(weight, std=0.1)
    path = tmp_path_factory.mktemp("mini") / "mini.safetensors"
    save_mini(model, model.state_dict(), path)
    return path


def request(folder: Path, **changes: Any) -> CaptureRequest:
    given = {
        "model": "wan", "prompt": "a red cat", "layers": (0, 2), "steps": (0, 1), "weights": folder,
        "sampler_steps": 3, **SIZE,
    }  # fmt: skip
    return CaptureRequest(**given | changes)


def mini_request(weights: Path, **changes: Any) -> CaptureRequest:
    given = {"model": "mini", "prompt": MINI_PROMPT, "layers": (1,), "steps": (0, 2), "weights": weights}
    return CaptureRequest(**given | {"sampler_steps": 3} | changes)


def read(done: Captured, point: Point) -> Inputs:
    shape = resolve_shape(grid=str(done.layout.grid), heads=done.heads, head_dim=done.head_dim)
    return make_inputs(
        done.inputs(point), shape, heads=done.heads, dtype=torch.float32, device=torch.device("cpu"), seed=0
    )


class Seen(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor


def seen_by_attention(weights: Path) -> dict[tuple[int, int], Seen]:
    """Return q, k and v by layer and step, of the conditional half, taken by a method and by hooks on to_v."""
    pipeline = load("wan", weights).pipeline
    found: dict[tuple[int, int], Seen] = {}
    values: dict[int, Tensor] = {}
    full = get_method("full")

    def plan(settings: Any, q: Tensor, k: Tensor, call: Call) -> Plan:
        assert call.step is not None
        v = values[call.layer].unflatten(-1, (2, 24)).transpose(1, 2)
        found.setdefault((call.layer, call.step), Seen(q.clone(), k.clone(), v))
        return full.plan(settings, q, k, call)

    def hook(layer: int) -> Any:
        return lambda module, given, output: values.__setitem__(layer, output)

    for layer, block in enumerate(pipeline.transformer.blocks):
        block.attn1.to_v.register_forward_hook(hook(layer))
    with patch(pipeline, dataclasses.replace(full, name="recording", plan=plan), engine="sdpa", dense_steps=0):
        pipeline(
            prompt="a red cat", num_inference_steps=3, num_frames=9, height=32, width=48, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    return found


def test_a_capture_holds_what_attention_saw_and_comes_back(wan: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    out = tmp_path / "q.safetensors"
    done = capture(request(wan), out, lambda step, count: steps.append((step, count)))
    assert (str(done.layout.grid), done.heads, done.kv_heads, done.head_dim, done.dtype) == (
        "3x2x3",
        2,
        2,
        24,
        "float32",
    )
    assert done.points == points_of((0, 2), (0, 1))
    assert steps == [(0, 2)]  # the third step is not made, nor the second to its end
    expected = seen_by_attention(wan)
    for point in done.points:
        inputs, seen = read(done, point), expected[point.layer, point.step]
        for name in "qkv":
            assert torch.equal(getattr(inputs, name), getattr(seen, name)), f"{name} of {point}"
    with safe_open(out, framework="pt") as file:
        header = file.metadata()
    assert (header["grid"], header["model"], header["prompt"]) == ("3x2x3", "wan", "a red cat")
    assert [path.name for path in tmp_path.iterdir()] == ["q.safetensors"]


def test_one_point_is_written_as_q_k_and_v(mini: Path, tmp_path: Path) -> None:
    out = tmp_path / "q.safetensors"
    done = capture(mini_request(mini, layers=(2,), steps=(1,)), out)
    assert set(load_file(out)) == {"q", "k", "v"}
    assert done.inputs(done.points[0]) == f"capture:{out}"
    assert done.run_options(done.points[0]) == f"--grid 2x8x8 --heads 2 --head-dim 16 --inputs capture:{out}"
    assert read(done, done.points[0]).q.shape == (1, 2, 128, 16)


def test_the_mini_model_is_captured_where_it_was_asked(mini: Path, tmp_path: Path) -> None:
    done = capture(mini_request(mini), tmp_path / "both.safetensors")
    assert [str(point) for point in done.points] == ["layer1.step0", "layer1.step2"]
    first, last = (read(done, point).q for point in done.points)
    assert not torch.equal(first, last)
    alone = capture(mini_request(mini, steps=(2,)), tmp_path / "alone.safetensors")
    assert torch.equal(read(alone, alone.points[0]).q, last)
    other = capture(mini_request(mini, steps=(2,), seed=1), tmp_path / "other.safetensors")
    assert not torch.equal(read(other, other.points[0]).q, last)


@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_of_joint_text_all_or_nothing_is_kept_and_of_guidance_the_prompt(tmp_path: Path) -> None:
    weights = write_random("cogvideox", tmp_path / "weights")
    changes = {"model": "cogvideox", "layers": (0,), "steps": (0,), "width": 32}
    both = capture(request(weights, **changes), tmp_path / "both.safetensors")
    only = capture(request(weights, **changes, video_only=True), tmp_path / "only.safetensors")
    plain = capture(request(weights, **changes, guidance=1.0), tmp_path / "plain.safetensors")
    assert (both.layout, only.layout) == (Layout(Grid(3, 2, 2), (226, 0)), Layout(Grid(3, 2, 2)))
    q, video, alone = (load_file(done.path)["q"] for done in (both, only, plain))
    assert q.shape == (1, 2, 226 + 12, 32)
    assert torch.equal(q[:, :, 226:], video)
    torch.testing.assert_close(alone, q)  # without guidance there is one half, that of the prompt
    with pytest.raises(BadInput, match="text tokens before and after the video 226,0, and 0,0 was asked for"):
        read(both, both.points[0])


def test_the_part_of_a_capture_is_named_and_its_grid_compared(mini: Path, tmp_path: Path) -> None:
    done = capture(mini_request(mini), tmp_path / "q.safetensors")

    def load_as(part: str, grid: str = "2x8x8") -> Inputs:
        shape = resolve_shape(grid=grid, heads=2, head_dim=16)
        spec = f"capture:{done.path}{part}"
        return make_inputs(spec, shape, heads=2, dtype=torch.float32, device=torch.device("cpu"), seed=0)

    assert load_as("@layer1.step2").q.shape == (1, 2, 128, 16)
    for part, grid, words in (
        ("", "2x8x8", "holds layer1.step0, layer1.step2: write which"),
        ("@layer0.step0", "2x8x8", "has no 'layer0.step0': it holds layer1.step0, layer1.step2"),
        ("@layer1.step2", "8x8x2", "has token grid 2x8x8, and 8x8x2 was asked for"),
    ):
        with pytest.raises(BadInput, match=words):
            load_as(part, grid)
    with pytest.raises(BadInput, match="does not exist"):
        make_inputs(
            f"capture:{tmp_path}/none.safetensors@layer1.step2", resolve_shape(grid="2x8x8", heads=2, head_dim=16),
            heads=2, dtype=torch.float32, device=torch.device("cpu"), seed=0,
        )  # fmt: skip


def test_a_name_with_an_at_sign_is_a_name(mini: Path, tmp_path: Path) -> None:
    done = capture(mini_request(mini, steps=(1,)), tmp_path / "me@home.safetensors")
    assert read(done, done.points[0]).q.shape == (1, 2, 128, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "wann"}, "did you mean 'wan'"),
        ({"prompt": "  "}, "the prompt is empty"),
        ({"layers": ()}, "layers"),
        ({"steps": (-1,)}, "steps"),
        ({"layers": (3,)}, "layer 3 does not exist: this clip has layers 0 to 2"),
        ({"steps": (3,)}, "step 3 does not exist: this clip has steps 0 to 2"),
        ({"weights": None}, "needs its weights: give --weights FOLDER"),
        ({"frames": 8}, "frames 8 must be of the form"),
        ({"sampler_steps": 0}, "steps 0 must be a whole number from 1 to"),
        ({"guidance": float("nan")}, "guidance nan must be a finite number"),
        ({"seed": 2**70}, f"seed {2**70} must be a whole number from 0 to"),
        ({"prompt": "caf\udce9"}, "is not text in UTF-8"),
        ({"height": 16 * 65}, "height 1040 must be at most 1024"),
        ({"frames": 4 * 64 + 1}, "frames 257 must be at most 253"),
    ],
)
def test_what_cannot_be_captured_is_refused_and_leaves_nothing(
    wan: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        capture(request(wan, **changes), tmp_path / "q.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": "a red cat"}, "must be a class and a direction"),
        ({"frames": 9}, "its clips have one size"),
        ({"dtype": "float16"}, "must be bfloat16 or float32"),
        ({"layers": (3,)}, "layer 3 does not exist"),
        ({"guidance": float("inf")}, "guidance inf must be a finite number"),
        ({"seed": -1}, "seed -1 must be a whole number from 0 to"),
        ({"sampler_steps": 10**9}, "steps 1000000000 must be a whole number from 1 to"),
    ],
)
def test_what_the_mini_model_cannot_do_is_refused(
    mini: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        capture(mini_request(mini, **changes), tmp_path / "q.safetensors")


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    for out, words in (
        (tmp_path / "q.pt", "must end in .safetensors"),
        (taken, "exists"),
        (tmp_path / "none" / "q.safetensors", "does not exist"),
    ):
        with pytest.raises(BadInput, match=words):
            capture(request(tmp_path / "no weights"), out)
    assert taken.read_bytes() == b"mine"


def test_a_full_disk_is_told_from_the_first_call_on(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    steps: list[int] = []
    with pytest.raises(BadInput, match=r"the capture takes 98\.3 kB, and its disk has 1 kB free"):
        capture(mini_request(mini), tmp_path / "q.safetensors", lambda step, count: steps.append(step))
    assert not steps
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file of this process grow beyond 10,000 bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_disk_that_is_full_while_writing_leaves_nothing(mini: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"q\.safetensors' cannot be written: ") as caught:
        capture(mini_request(mini), tmp_path / "q.safetensors")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_model_that_overflows_leaves_no_capture(mini: Path, tmp_path: Path) -> None:
    tensors, about = read_tensors(mini, "mini-transformer")
    huge = {name: tensor * 1e30 if name.endswith(":factor") else tensor for name, tensor in tensors.items()}
    write_tensors(tmp_path / "huge.safetensors", "mini-transformer", huge, about)
    with pytest.raises(BadInput, match=r"q of layer1\.step2 holds NaN or Inf"):
        capture(mini_request(tmp_path / "huge.safetensors", steps=(2,)), tmp_path / "q.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["huge.safetensors"]


def test_an_interrupt_leaves_nothing(mini: Path, tmp_path: Path) -> None:
    def interrupt(step: int, count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(mini_request(mini), tmp_path / "q.safetensors", interrupt)
    assert not list(tmp_path.iterdir())


def test_a_collector_keeps_the_first_call_and_the_last_item_of_a_batch() -> None:
    collector, grid = Collector([Point(0, 0)]), Grid(1, 2, 2)
    q = torch.arange(2.0).reshape(2, 1, 1, 1).expand(2, 1, 4, 8)
    assert not collector.begin(1, 0)
    assert collector.begin(0, 0)
    collector.take(q, q, q, grid=grid, layer=0, step=0)
    with pytest.raises(Complete):
        collector.begin(0, 0)
    assert torch.equal(collector.found[Point(0, 0)][0], torch.ones(1, 1, 4, 8))
    assert collector.layout() == Layout(grid)


def test_points_with_different_text_do_not_fit_one_file() -> None:
    collector, grid = Collector(points_of((0,), (0, 1))), Grid(1, 2, 2)
    for step, words in ((0, 3), (1, 2)):
        q = torch.zeros(1, 1, 4 + words, 8)
        assert collector.begin(0, step)
        collector.take(q, q, q, grid=grid, text=(0, words), layer=0, step=step)
    with pytest.raises(BadInput, match="capture them one by one, or give --video-only"):
        collector.layout()


def test_a_point_that_never_came_is_named() -> None:
    with pytest.raises(BadInput, match=r"without a call of layer4\.step7"):
        Collector([Point(4, 7)]).layout()


def test_the_command_writes_a_file_and_says_how_to_use_it(mini: Path, tmp_path: Path) -> None:
    app, out = typer.Typer(), tmp_path / "q.safetensors"
    app.command()(command)
    given = ["--weights", str(mini), "--prompt", MINI_PROMPT, "--layers", "0,2", "--steps", "1", "--sampler-steps", "2"]
    result = CliRunner().invoke(app, [*given, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"attnbench run --grid 2x8x8 --heads 2 --head-dim 16 --inputs capture:{out}@layer0.step1" in result.output
    assert len(load_file(out)) == 6
    refused = CliRunner().invoke(app, [*given, "--out", str(out)])
    assert isinstance(refused.exception, BadInput)


@pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for it in float32
@pytest.mark.parametrize("name", ["cogvideox", "hunyuan", "mochi"])
def test_what_the_command_says_of_joint_text_can_be_run(name: str, tmp_path: Path) -> None:
    app, out = typer.Typer(), tmp_path / "q.safetensors"
    app.command()(command)
    weights = write_random(name, tmp_path / "weights")
    given = ["--model", name, "--weights", str(weights), "--prompt", "a cat", "--sampler-steps", "2"]
    size = [
        word
        for key, value in {**SIZE, "frames": 13 if name == "mochi" else 9}.items()
        for word in (f"--{key}", str(value))
    ]
    result = CliRunner().invoke(app, [*given, *size, "--out", str(out)])
    assert result.exit_code == 0, result.output
    last = result.output.strip().splitlines()[-1]
    if name == "mochi":  # as many tokens as its prompt has, and no model of attnbench run has just these
        assert "tokens of joint text, as no model of attnbench run: use --video-only" in last
        return
    words = last.removeprefix("Measure with it: attnbench run ").split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    heads = int(options["--heads"])
    shape = resolve_shape(
        grid=options["--grid"], heads=heads, head_dim=int(options["--head-dim"]), model=options["--model"]
    )
    inputs = make_inputs(
        options["--inputs"], shape, heads=heads, dtype=torch.float32, device=torch.device("cpu"), seed=0
    )
    assert inputs.q.shape[2] == {"cogvideox": 226, "hunyuan": 256}[name] + 3 * 2 * 3


def test_the_size_of_the_mini_model_is_refused_in_the_words_of_the_user(mini: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(
        app, ["--weights", str(mini), "--res", "480p", "--out", str(tmp_path / "q.safetensors")]
    )
    assert isinstance(result.exception, BadInput)
    assert "--res 480p does not apply to the mini model" in str(result.exception)
