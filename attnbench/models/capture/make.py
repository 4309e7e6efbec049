"""Make a capture: from a request to a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attnbench.inputs.presets import MODELS
from attnbench.kernels.grid import Layout
from attnbench.machine.memory import lack_told
from attnbench.models.capture.collect import Collector, Point, points_of
from attnbench.models.capture.models import MiniSource, PipelineSource
from attnbench.models.capture.request import MINI, CaptureRequest
from attnbench.models.capture.write import check_target, room_for, write_capture


@dataclass(frozen=True, slots=True)
class Captured:
    """A capture that was written.

    Attributes:
        path: the file.
        points: the layers and steps in the file.
        layout: token grid and text tokens.
        heads, kv_heads, head_dim: sizes of the tensors.
        dtype: dtype of the tensors, such as "bfloat16".
    """

    path: Path
    points: tuple[Point, ...]
    layout: Layout
    heads: int
    kv_heads: int
    head_dim: int
    dtype: str

    def inputs(self, point: Point) -> str:
        """Return the value of ``--inputs`` for a point of the file."""
        return f"capture:{self.path}" + (f"@{point}" if len(self.points) > 1 else "")

    def run_options(self, point: Point) -> str | None:
        """Return the options of ``attnbench run`` for a point of the file, or None if its joint text fits no model.

        ``attnbench run`` uses the number of text tokens that ``--model`` has, and none without it.
        """
        model, grid, text = "", self.layout.grid, self.layout.text
        if text != (0, 0):
            name = next((name for name, preset in MODELS.items() if preset.text_of(grid) == text), None)
            if name is None:
                return None
            model = f"--model {name} "
        shape = f"{model}--grid {grid} --heads {self.heads} --head-dim {self.head_dim}"
        kv_heads = "" if self.kv_heads == self.heads else f" --kv-heads {self.kv_heads}"
        return f"{shape}{kv_heads} --inputs {self.inputs(point)}"


def capture(
    request: CaptureRequest, out: Path, after_step: Callable[[int, int], object] = lambda step, steps: None
) -> Captured:
    """Make a clip with full attention, and write q, k and v of the requested layers and steps.

    The clip stops once everything is collected. An exception leaves no file behind.

    Args:
        request: the clip to make, and what to keep.
        out: a .safetensors file that does not exist yet.
        after_step: called with the number of each finished step and the number of steps that are needed.

    Raises:
        BadInput: for a request, weights or a file that cannot be used, a model that gives NaN, or if memory does not
            suffice.
        Unsupported: without diffusers.
    """
    check_target(out)
    source = MiniSource(request) if request.model == MINI else PipelineSource(request)
    request.check(source.layers, source.steps)
    points = points_of(request.layers, request.steps)
    needed = max(point.step for point in points) + 1
    collector = Collector(points, video_only=request.video_only, room=room_for(out))
    with lack_told(_too_large):
        source.run(collector, lambda step: after_step(step, needed))
    layout = collector.layout()
    collector.refuse_overflow()
    found = {point: collector.found[point] for point in points}
    about = {
        "model": request.model, "prompt": request.prompt, "seed": request.seed, "sampler_steps": source.steps,
    }  # fmt: skip
    write_capture(out, found, layout, about)
    q, k, _ = found[points[0]]
    dtype = str(q.dtype).removeprefix("torch.")
    return Captured(out, points, layout, q.shape[1], k.shape[1], q.shape[3], dtype)


def _too_large(said: str) -> str:
    return f"there is not enough memory for this clip{f': {said}' if said else ''}"
