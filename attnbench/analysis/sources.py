"""Where calls of attention come from: a capture, modelled inputs, or a model that makes a clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from attnbench.analysis.call import AttentionCall
from attnbench.analysis.request import AnalyzeRequest
from attnbench.inputs.capture import capture_parts, read_tensors
from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import Shape, resolve_shape
from attnbench.inputs.spec import check_inputs_spec
from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import Grid, Layout
from attnbench.machine.device import resolve_device, resolve_dtype
from attnbench.models import MODEL_NAMES
from attnbench.models.capture.collect import Complete, Point, points_of
from attnbench.models.capture.models import MiniSource, PipelineSource
from attnbench.models.capture.request import MINI, CaptureRequest

MINI_PROMPTS = ("3 moving north-east",)
"""Of the mini model, where none is given."""

Take = Callable[[AttentionCall], None]


class Source(Protocol):
    """Calls of attention, clip by clip.

    Attributes:
        model: whose they are; "video" or "gaussian" for modelled inputs.
        prompts: of the clips; one empty prompt where there are none.
        calls: how many a clip has.
        files: what is read, by name.
        device: where they are computed.
    """

    model: str
    prompts: Sequence[str]
    calls: int
    files: Mapping[str, Path | None]
    device: torch.device

    def run(self, prompt: str, take: Take) -> None:
        """Hand over the calls of a clip, step by step."""
        ...


def make_source(request: AnalyzeRequest) -> Source:
    """Return the source that is asked for.

    Raises:
        BadInput: for a model, a file or a shape that cannot be used.
        Unsupported: for a model that needs diffusers, without it.
    """
    if request.inputs is None:
        return ModelSource(request)
    unused = {
        "--prompt": request.prompts, "--weights": request.weights, "--sampler-steps": request.sampler_steps,
        "--guidance": request.guidance,
    }  # fmt: skip
    if given := [name for name, value in unused.items() if value not in (None, [])]:
        raise BadInput(f"inputs {request.inputs!r} need no model that runs: drop {given[0]}, or drop --inputs")
    spec = check_inputs_spec(request.inputs)
    return FileSource(request, spec.path, spec.part) if spec.kind == "capture" and spec.path else MadeSource(request)


class MadeSource:
    """Modelled inputs: one call."""

    def __init__(self, request: AnalyzeRequest) -> None:
        """Find the shape.

        Raises:
            BadInput: for a shape or inputs that cannot be made, or layers and steps, which they do not have.
        """
        for name, given in (("--layers", request.layers), ("--steps", request.steps)):
            if given is not None:
                raise BadInput(f"inputs {request.inputs!r} have one layer and no steps: drop {name}")
        self.device = resolve_device(request.device)
        self._dtype = resolve_dtype(request.dtype, self.device)
        self._request, self._shape = request, _shape(request)
        self.model = (request.inputs or "").partition(":")[0]
        self.prompts: Sequence[str] = ("",)
        self.calls = 1
        self.files: Mapping[str, Path | None] = {"inputs": check_inputs_spec(request.inputs or "").path}

    def run(self, prompt: str, take: Take) -> None:
        """Make q, k and v."""
        shape = self._shape
        made = make_inputs(
            self._request.inputs or "", shape, heads=shape.heads, dtype=self._dtype, device=self.device,
            seed=self._request.seed,
        )  # fmt: skip
        take(AttentionCall(made.q, made.k, made.v, shape.layout))


class FileSource:
    """A capture: all of its layers and steps, or those that are asked for."""

    def __init__(self, request: AnalyzeRequest, path: Path, part: str | None) -> None:
        """Read what the file holds, without its tensors.

        Raises:
            BadInput: if it cannot be read, holds no q, or has not the grid, layers or steps asked for;
                also for another shape or dtype than its own.
        """
        unused = {
            "--res": request.res, "--frames": request.frames, "--height": request.height, "--width": request.width,
            "--heads": request.heads, "--head-dim": request.head_dim, "--dtype": request.dtype,
            "--text-tokens": None if request.grid is not None else request.text_tokens,
        }  # fmt: skip
        if given := [name for name, value in unused.items() if value is not None]:
            raise BadInput(f"capture {str(path)!r} has its own shape and dtype: drop {given[0]}")
        self.device = resolve_device(request.device)
        self._path = path
        found = capture_parts(path)
        batch, heads, tokens, head_dim = found.shape
        if batch != 1:
            raise BadInput(f"capture {str(path)!r} holds a batch of {batch}; analyze reads batches of one")
        layout = _layout(request, path, found.header, tokens)
        self._shape = Shape(layout, batch, heads, found.kv_heads, head_dim, 1, None)
        wanted = [each for each in found.parts if part in (None, each.name)]
        if not wanted:
            names = ", ".join(each.name for each in found.parts if each.name) or "q, k and v of one layer and step"
            raise BadInput(f"capture {str(path)!r} has no {part!r}: it holds {names}")
        for name, asked in (("layer", request.layers), ("step", request.steps)):
            there = sorted({getattr(each, name) or 0 for each in found.parts})
            if lost := [number for number in asked or () if number not in there]:
                raise BadInput(f"capture {str(path)!r} has no {name} {lost[0]}: it holds {', '.join(map(str, there))}")
        self._parts = [
            each for each in wanted
            if (request.layers is None or each.layer in request.layers)
            and (request.steps is None or (each.step or 0) in request.steps)
        ]  # fmt: skip
        if not self._parts:
            raise BadInput(f"capture {str(path)!r} holds none of these layers in these steps")
        self.model = found.header.get("model", "capture")
        self.prompts: Sequence[str] = (found.header.get("prompt", ""),)
        self.calls = len(self._parts)
        self.files: Mapping[str, Path | None] = {"inputs": path}

    def run(self, prompt: str, take: Take) -> None:
        """Read one part after the other."""
        before: dict[int, str] = {}
        for part in self._parts:
            there = "".join(each for each in "qkv" if each not in part.lacking)
            tensors = read_tensors(self._path, self._shape, there, part.name)
            instead = tensors[there[-1]][:, : self._shape.kv_heads]
            q, k, v = (tensors.get(each, instead).to(self.device) for each in "qkv")
            lost = before.get(part.layer, "")
            take(AttentionCall(q, k, v, self._shape.layout, part.layer, part.step, part.lacking, lost))
            before[part.layer] = part.lacking


class ModelSource:
    """A model that makes a clip for each prompt with full attention, which stops after the last call asked for."""

    def __init__(self, request: AnalyzeRequest) -> None:
        """Load the model and check the request against it.

        Raises:
            BadInput: for a model, weights, prompts, layers or steps that cannot be used.
            Unsupported: without diffusers, for its models.
        """
        self.model = request.model or MINI
        if self.model != MINI and self.model not in MODEL_NAMES:
            raise unknown_name("model", self.model, (MINI, *MODEL_NAMES))
        unused = {
            "--res": request.res, "--grid": request.grid, "--text-tokens": request.text_tokens,
            "--heads": request.heads, "--head-dim": request.head_dim,
        }  # fmt: skip
        if given := [name for name, value in unused.items() if value is not None]:
            raise BadInput(f"{given[0]} is for --inputs: model {self.model!r} that runs has its own")
        self.prompts: Sequence[str] = tuple(request.prompts) or (MINI_PROMPTS if self.model == MINI else ())
        if not self.prompts:
            raise BadInput(f"model {self.model!r} needs a prompt: give --prompt TEXT, or --prompts FILE")
        self._request, self.device = request, resolve_device(request.device)
        first = self._source(self.prompts[0], (0,), (0,))
        self._layers = tuple(range(first.layers) if request.layers is None else request.layers)
        self._steps = tuple(range(first.steps) if request.steps is None else request.steps)
        self._asked(self.prompts[0], self._layers, self._steps).check(first.layers, first.steps)
        for prompt in self.prompts[1:]:
            self._asked(prompt, (0,), (0,))
        self.calls = len(points_of(self._layers, self._steps))
        self.files: Mapping[str, Path | None] = {"weights": None if request.weights is None else Path(request.weights)}
        self._first = (self.prompts[0], first)

    def _asked(self, prompt: str, layers: tuple[int, ...], steps: tuple[int, ...]) -> CaptureRequest:
        given = self._request
        return CaptureRequest(
            model=self.model, prompt=prompt, layers=layers, steps=steps,
            weights=None if given.weights is None else Path(given.weights), sampler_steps=given.sampler_steps,
            frames=given.frames, height=given.height, width=given.width, guidance=given.guidance, seed=given.seed,
            dtype=given.dtype, device=given.device,
        )  # fmt: skip

    def _source(self, prompt: str, layers: tuple[int, ...], steps: tuple[int, ...]) -> MiniSource | PipelineSource:
        asked = self._asked(prompt, layers, steps)
        return MiniSource(asked) if self.model == MINI else PipelineSource(asked)

    def _of(self, prompt: str) -> MiniSource | PipelineSource:
        known, first = self._first
        return first if prompt == known else self._source(prompt, self._layers, self._steps)

    def mini(self, prompt: str) -> MiniSource:
        """Return what makes the clips of a prompt.

        Raises:
            BadInput: for another model than mini.
        """
        source = self._of(prompt)
        if not isinstance(source, MiniSource):
            raise BadInput(f"model {self.model!r} cannot be perturbed: --perturb is for the mini model")
        return source

    def run(self, prompt: str, take: Take) -> None:
        """Make a clip, and hand its calls over while it is made."""
        source = self._of(prompt)
        taker = _Taker(points_of(self._layers, self._steps), take)
        with suppress(Complete):
            source.run(taker, lambda step: None)
        if taker.left:
            raise BadInput(f"the clip was made without a call of {min(taker.left)}: it has fewer layers or steps")


class _Taker:
    """Hands over the first call at each point, of its last batch item: with guidance that is the conditional half."""

    def __init__(self, points: Sequence[Point], take: Take) -> None:
        self.left, self._take = set(points), take

    def begin(self, layer: int, step: int) -> bool:
        """Return whether the call is wanted; see ``Taker``."""
        if not self.left:
            raise Complete
        return Point(layer, step) in self.left

    def take(
        self, q: Tensor, k: Tensor, v: Tensor, *, grid: Grid, text: tuple[int, int] = (0, 0), layer: int, step: int
    ) -> None:
        """Hand a call over."""
        self.left.discard(Point(layer, step))
        self._take(AttentionCall(q[-1:], k[-1:], v[-1:], Layout(grid, text), layer, step))


def _shape(request: AnalyzeRequest) -> Shape:
    return resolve_shape(
        res=request.res, frames=request.frames, height=request.height, width=request.width, model=request.model,
        grid=request.grid, text_tokens=request.text_tokens, heads=request.heads, head_dim=request.head_dim,
    )  # fmt: skip


def _layout(request: AnalyzeRequest, path: Path, header: Mapping[str, str], tokens: int) -> Layout:
    """Return the layout that a capture states, or that was asked for where it states none."""
    stated = header.get("grid")
    asked = _shape(request).layout if request.grid is not None else None
    if stated is None and asked is None:
        raise BadInput(f"capture {str(path)!r} does not state its token grid: give it, as --grid 21x30x52")
    if stated is None:
        assert asked is not None
        layout = asked
    else:
        before, _, after = header.get("text", "0,0").partition(",")
        text = (int(before), int(after)) if before.isdecimal() and after.isdecimal() else (0, 0)
        layout = Layout(Grid.of(stated), text)
        if asked is not None and asked.grid != layout.grid:
            raise BadInput(f"capture {str(path)!r} has token grid {stated}, and {asked.grid} was asked for")
        if asked is not None and request.text_tokens is not None and asked.text != text:
            raise BadInput(
                f"capture {str(path)!r} has text tokens before and after the video {text[0]},{text[1]}, and "
                f"{asked.text[0]},{asked.text[1]} was asked for"
            )
    if layout.tokens != tokens:
        raise BadInput(
            f"capture {str(path)!r} has {tokens} tokens, and grid {layout.grid} with text makes {layout.tokens}"
        )
    return layout
