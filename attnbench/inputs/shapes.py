"""Attention shapes: the heads, head_dim and tokens of a model for a video, from the options that users give."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.inputs.presets import MODELS, RESOLUTIONS, WAN, ModelPreset, Resolution
from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import Grid, Layout

DEFAULT_MODEL = "wan2.1-1.3b"
DEFAULT_RESOLUTION = "480p"


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one attention call, and the model that it comes from (None if it comes from no model).

    Raises:
        BadInput: if a count is not a whole number of at least 1, or ``kv_heads`` does not divide ``heads``.
    """

    layout: Layout
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    model: str | None

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "kv_heads", "head_dim", "layers"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise BadInput(f"{name} {count!r} must be a whole number of at least 1")
        if self.heads % self.kv_heads:
            raise BadInput(f"kv_heads {self.kv_heads} must divide heads {self.heads}")

    @property
    def grid(self) -> Grid:
        """The video tokens."""
        return self.layout.grid

    @property
    def tokens(self) -> int:
        """N: all tokens, text included."""
        return self.layout.tokens


def resolve_shape(
    *,
    res: str | None = None,
    frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    model: str | None = None,
    grid: str | Grid | None = None,
    text_tokens: str | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    batch: int = 1,
) -> Shape:
    """Return the shape that these options ask for.

    The token grid is ``grid``, else the model's only grid (``mini``), else that of the video, by the model's rule.
    Heads and head_dim default to the model's. If ``heads`` is given, ``kv_heads`` defaults to the same number. A
    ``grid`` without a model has no text tokens and one layer, and takes heads and head_dim from ``wan2.1-1.3b``.

    Args:
        res: a name of ``RESOLUTIONS``; default: the model's usual video, else 480p.
        frames: number of frames, of the model's form; default: the resolution's, or the model's usual number where that
            is of another form or no resolution is given.
        height: pixels, with ``width`` instead of ``res``.
        width: pixels.
        model: a name of ``MODELS``; default wan2.1-1.3b.
        grid: tokens, such as "21x45x80".
        text_tokens: how many, instead of the model's: "226" on the model's side of the video, which is behind it where
            the model joins none, or "226+0" before and after.
        heads: query heads.
        kv_heads: key and value heads, a divisor of ``heads``.
        head_dim: channels a head.
        batch: sequences.

    Raises:
        BadInput: for an unknown name, a number out of range, or options that exclude each other.
    """
    if model is not None and model not in MODELS:
        raise unknown_name("model", model, MODELS)
    if res is not None and res not in RESOLUTIONS:
        raise unknown_name("resolution", res, RESOLUTIONS)
    preset = MODELS[model or DEFAULT_MODEL]
    given = (("res", res), ("frames", frames), ("height", height), ("width", width))
    typed = _listed([f"--{name} {value}" for name, value in given if value is not None])
    if grid is not None:
        if typed:
            raise BadInput(f"--grid {grid} already says the tokens: drop {typed}, or drop --grid")
        tokens = Grid.of(grid)
    elif preset.grid is not None:
        if typed:
            raise BadInput(f"--model {model} has one grid, {preset.grid}: drop {typed}")
        tokens = preset.grid
    else:
        tokens = _video_tokens(preset, res, frames, height, width)
    no_model = grid is not None and model is None
    if kv_heads is None:
        kv_heads = preset.kv_heads if heads is None else heads
    text = (0, 0) if no_model else preset.text_of(tokens)
    return Shape(
        layout=Layout(tokens, text if text_tokens is None else _read_text(text_tokens, text)),
        batch=batch,
        heads=preset.heads if heads is None else heads,
        kv_heads=kv_heads,
        head_dim=preset.head_dim if head_dim is None else head_dim,
        layers=1 if no_model else preset.layers,
        model=None if no_model else preset.name,
    )


def _video_tokens(
    preset: ModelPreset, res: str | None, frames: int | None, height: int | None, width: int | None
) -> Grid:
    """Return the token grid of a video of a model."""
    if (height is None) != (width is None):
        name, value = ("height", height) if width is None else ("width", width)
        raise BadInput(f"--{name} {value} needs {'--width' if width is None else '--height'} too")
    if height is not None and width is not None:
        if res is not None:
            raise BadInput(f"--res {res} already says the pixels: drop --height {height} and --width {width}")
        usual = preset.usual or RESOLUTIONS[DEFAULT_RESOLUTION]
        return preset.rule.grid(height, width, usual.frames if frames is None else frames)
    video: Resolution = RESOLUTIONS[res] if res is not None else preset.usual or RESOLUTIONS[DEFAULT_RESOLUTION]
    if frames is None and preset.rule.frames != WAN.frames and preset.usual is not None:
        frames = preset.usual.frames  # those of the format may not be of the model's form
    return video.grid(frames, preset.rule)


def _read_text(given: str, usual: tuple[int, int]) -> tuple[int, int]:
    parts = given.split("+")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise BadInput(
            f"--text-tokens {given!r} must be a whole number of at least 0, or two, before and after the "
            "video, such as 226+0"
        )
    if len(parts) == 2:
        return int(parts[0]), int(parts[1])
    return (int(given), 0) if usual[0] else (0, int(given))


def _listed(words: list[str]) -> str:
    """Return "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def frames_at(layout_tokens: float, text: int, grid: Grid, model: str | None = None) -> float:
    """Return the video frames at which a sequence has ``layout_tokens`` tokens, with frames as large as the grid's."""
    preset = MODELS.get(model or DEFAULT_MODEL)
    return (WAN if preset is None else preset.rule).frames_of((layout_tokens - text) / (grid.h * grid.w))
