"""Attention shapes: the heads, head_dim and token grid of a model at a resolution and number of frames."""

from __future__ import annotations

from dataclasses import dataclass

from attnbench.kernels.errors import BadInput, unknown_name
from attnbench.kernels.grid import Grid, Layout

PATCH = 16
"""Pixels that a token covers in height and in width: a factor of 8 by the VAE and of 2 by the patch embedding."""

FRAME_GROUP = 4
"""Frames that a token covers. The first frame is an exception: it has tokens of its own."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A video format: its size in pixels, and the usual number of frames."""

    height: int
    width: int
    frames: int

    def grid(self, frames: int | None = None) -> Grid:
        """Return the token grid: T = (frames-1)/4+1, H = height/16, W = width/16.

        Args:
            frames: number of frames, of the form 4k+1; the usual number if None.

        Raises:
            BadInput: if ``frames`` is not of the form 4k+1.
        """
        count = self.frames if frames is None else frames
        if isinstance(count, bool) or not isinstance(count, int) or count < 1 or (count - 1) % FRAME_GROUP:
            below = max((count - 1) // FRAME_GROUP, 0) * FRAME_GROUP + 1 if isinstance(count, int) else self.frames
            raise BadInput(f"frames {count!r} must be of the form 4k+1, such as {below} or {below + FRAME_GROUP}")
        return Grid((count - 1) // FRAME_GROUP + 1, self.height // PATCH, self.width // PATCH)


RESOLUTIONS: dict[str, Resolution] = {
    "480p": Resolution(480, 832, 81),
    "576p": Resolution(576, 1024, 93),
    "720p": Resolution(720, 1280, 81),
}
"""Formats by name: 32,760, 55,296 and 75,600 tokens at their usual number of frames."""


@dataclass(frozen=True, slots=True)
class ModelPreset:
    """The attention shape of a model.

    ``text`` is the number of text tokens that its self-attention joins before and after the video. ``grid`` is set for
    a model that has only one grid. ``source`` says where the numbers are from.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    text: tuple[int, int]
    source: str
    grid: Grid | None = None


MODELS: dict[str, ModelPreset] = {
    preset.name: preset
    for preset in (
        ModelPreset(
            name="wan2.1-1.3b",
            heads=12,
            kv_heads=12,
            head_dim=128,
            layers=30,
            text=(0, 0),
            source="Wan 2.1, wan/configs/wan_t2v_1_3B.py: num_heads 12, dim 1536 (12 x 128), num_layers 30; "
            "text enters by cross-attention only (wan/modules/model.py).",
        ),
        ModelPreset(
            name="wan2.1-14b",
            heads=40,
            kv_heads=40,
            head_dim=128,
            layers=40,
            text=(0, 0),
            source="Wan 2.1, wan/configs/wan_t2v_14B.py: num_heads 40, dim 5120 (40 x 128), num_layers 40; "
            "text enters by cross-attention only (wan/modules/model.py).",
        ),
        ModelPreset(
            name="hunyuan",
            heads=24,
            kv_heads=24,
            head_dim=128,
            layers=60,
            text=(0, 256),
            source="HunyuanVideo, diffusers HunyuanVideoTransformer3DModel: num_attention_heads 24, attention_head_dim "
            "128, num_layers 20 (two streams) + num_single_layers 40, text joined after the video; 256 text tokens is "
            "--text-len of hyvideo/config.py.",
        ),
        ModelPreset(
            name="cogvideox-5b",
            heads=48,
            kv_heads=48,
            head_dim=64,
            layers=42,
            text=(226, 0),
            source="CogVideoX-5b, transformer/config.json: num_attention_heads 48, attention_head_dim 64, num_layers "
            "42, max_text_seq_length 226; text joined before the video (diffusers CogVideoXAttnProcessor2_0).",
        ),
        ModelPreset(
            name="mini",
            heads=4,
            kv_heads=4,
            head_dim=64,
            layers=6,
            text=(0, 0),
            source="Made for this suite: small enough for a CPU, not a published model.",
            grid=Grid(8, 32, 32),
        ),
    )
}
"""Models by name."""

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
    model: str | None = None,
    grid: str | Grid | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    batch: int = 1,
) -> Shape:
    """Return the shape that these options ask for.

    The token grid is ``grid``, else the model's only grid (``mini``), else that of ``res`` and ``frames``. Heads and
    head_dim default to the model's. If ``heads`` is given, ``kv_heads`` defaults to the same number. A ``grid`` without
    a model has no text tokens and one layer, and takes heads and head_dim from ``wan2.1-1.3b``.

    Args:
        res: a name of ``RESOLUTIONS``; default 480p.
        frames: number of frames, of the form 4k+1; default: the resolution's.
        model: a name of ``MODELS``; default wan2.1-1.3b.
        grid: tokens, such as "21x45x80".
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
    typed = [f"--{name} {value}" for name, value in (("res", res), ("frames", frames)) if value is not None]
    if grid is not None:
        if typed:
            raise BadInput(f"--grid {grid} already says the tokens: drop {' and '.join(typed)}, or drop --grid")
        tokens = Grid.of(grid)
    elif preset.grid is not None:
        if typed:
            raise BadInput(f"--model {model} has one grid, {preset.grid}: drop {' and '.join(typed)}")
        tokens = preset.grid
    else:
        tokens = RESOLUTIONS[res or DEFAULT_RESOLUTION].grid(frames)
    no_model = grid is not None and model is None
    if kv_heads is None:
        kv_heads = preset.kv_heads if heads is None else heads
    return Shape(
        layout=Layout(tokens, (0, 0) if no_model else preset.text),
        batch=batch,
        heads=preset.heads if heads is None else heads,
        kv_heads=kv_heads,
        head_dim=preset.head_dim if head_dim is None else head_dim,
        layers=1 if no_model else preset.layers,
        model=None if no_model else preset.name,
    )


def frames_at(layout_tokens: float, text: int, grid: Grid) -> float:
    """Return the video frames at which a sequence has ``layout_tokens`` tokens, with frames as large as the grid's."""
    return FRAME_GROUP * ((layout_tokens - text) / (grid.h * grid.w) - 1) + 1
