"""Models and video formats: heads, layers, text, and how many tokens their pixels and frames make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid


@dataclass(frozen=True, slots=True)
class TokenRule:
    """How a model turns a video into tokens.

    Attributes:
        pixels: that a token covers in height and in width: the factor of the VAE times that of the patch embedding.
        frames: (first, step): a video has first + step · n frames, for n from 0.
        tokens: (first, step): it then has first + step · n token frames.
    """

    pixels: int = 16
    frames: tuple[int, int] = (1, 4)
    tokens: tuple[int, int] = (1, 1)

    @property
    def form(self) -> str:
        """The form of a number of frames, such as 4k+1."""
        first, step = self.frames
        return f"{step}k+{first}"

    def token_frames(self, frames: object) -> int:
        """Return T, the token frames of a video.

        Raises:
            BadInput: for a number of frames of another form, with those that are nearest.
        """
        first, step = self.frames
        if isinstance(frames, bool) or not isinstance(frames, int) or frames < first or (frames - first) % step:
            below = first + max((frames - first) // step, 0) * step if isinstance(frames, int) else first
            raise BadInput(f"frames {frames!r} must be of the form {self.form}, such as {below} or {below + step}")
        return self.tokens[0] + self.tokens[1] * ((frames - first) // step)

    def frames_of(self, token_frames: float) -> float:
        """Return the video frames that make so many token frames."""
        return self.frames[0] + self.frames[1] * (token_frames - self.tokens[0]) / self.tokens[1]

    def nearest(self, token_frames: float) -> int:
        """Return the number of token frames nearest to ``token_frames`` that a video can have."""
        least, step = self.tokens
        return least + step * max(0, round((token_frames - least) / step))

    def side(self, name: str, pixels: object) -> int:
        """Return the tokens of a side of a frame.

        Raises:
            BadInput: for a number that is no multiple of the pixels of a token, with those that are nearest.
        """
        if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels < 1 or pixels % self.pixels:
            below = max(1, pixels // self.pixels) * self.pixels if isinstance(pixels, int) else self.pixels
            raise BadInput(
                f"{name} {pixels!r} must be a multiple of {self.pixels}, the pixels of a token, such as {below} or "
                f"{below + self.pixels}"
            )
        return pixels // self.pixels

    def grid(self, height: int, width: int, frames: int) -> Grid:
        """Return the token grid of a video.

        Raises:
            BadInput: for a size that makes no whole number of tokens.
        """
        return Grid(self.token_frames(frames), self.side("height", height), self.side("width", width))


WAN = TokenRule()
"""Of Wan 2.1 and of most models: T = (frames-1)/4+1, H = height/16, W = width/16."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """A video format: its size in pixels, and the usual number of frames."""

    height: int
    width: int
    frames: int

    def grid(self, frames: int | None = None, rule: TokenRule = WAN) -> Grid:
        """Return the token grid.

        Args:
            frames: number of frames; the usual number if None.
            rule: how a model turns them into tokens.

        Raises:
            BadInput: for a size that makes no whole number of tokens.
        """
        return rule.grid(self.height, self.width, self.frames if frames is None else frames)


RESOLUTIONS: dict[str, Resolution] = {
    "480p": Resolution(480, 832, 81),
    "576p": Resolution(576, 1024, 93),
    "720p": Resolution(720, 1280, 81),
}
"""Formats by name: 32,760, 55,296 and 75,600 tokens at their usual number of frames."""


@dataclass(frozen=True, slots=True)
class ModelPreset:
    """The attention shape of a model.

    ``text`` is the number of text tokens that its self-attention joins before and after the video, and ``texts`` that
    of videos of other lengths, by token frames. ``grid`` is set for a model that has only one grid. ``source`` says
    where the numbers are from. ``rule`` says how it makes tokens, and ``usual`` is its usual video; None stands for
    480p.
    """

    name: str
    heads: int
    kv_heads: int
    head_dim: int
    layers: int
    text: tuple[int, int]
    source: str
    grid: Grid | None = None
    rule: TokenRule = WAN
    usual: Resolution | None = None
    texts: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def text_of(self, grid: Grid) -> tuple[int, int]:
        """Return the text tokens before and after a video of this grid."""
        return self.texts.get(grid.t, self.text)


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
            name="wan2.2-a14b",
            heads=40,
            kv_heads=40,
            head_dim=128,
            layers=40,
            text=(0, 0),
            source="Wan 2.2, wan/configs/wan_t2v_A14B.py: num_heads 40, dim 5120 (40 x 128), num_layers 40, vae_stride "
            "(4, 8, 8), patch_size (1, 2, 2), frame_num 81; the two experts are alike; text enters by cross-attention "
            "only.",
        ),
        ModelPreset(
            name="wan2.2-5b",
            heads=24,
            kv_heads=24,
            head_dim=128,
            layers=30,
            text=(0, 0),
            source="Wan 2.2, wan/configs/wan_ti2v_5B.py: num_heads 24, dim 3072 (24 x 128), num_layers 30, vae_stride "
            "(4, 16, 16), patch_size (1, 2, 2), frame_num 121, 1280x704; text enters by cross-attention only.",
            rule=TokenRule(pixels=32),
            usual=Resolution(704, 1280, 121),
        ),
        ModelPreset(
            name="hunyuan1.5",
            heads=16,
            kv_heads=16,
            head_dim=128,
            layers=54,
            text=(0, 1985),
            source="HunyuanVideo 1.5, diffusers 0.42.1 HunyuanVideo15Transformer3DModel: num_attention_heads 16, "
            "attention_head_dim 128, num_layers 54, patch_size 1, VAE 16 x 16 x 4, 121 frames; joined after the video "
            "are 729 image, 256 ByT5 and 1,000 text tokens (HunyuanVideo15Pipeline), masked ones among them.",
            usual=Resolution(720, 1280, 121),
        ),
        ModelPreset(
            name="ltx-2",
            heads=32,
            kv_heads=32,
            head_dim=128,
            layers=48,
            text=(0, 0),
            source="LTX-2, transformer/config.json: num_attention_heads 32, attention_head_dim 128, num_layers 48, "
            "patch_size 1, vae_scale_factors 8, 32, 32; 121 frames of 512x768 are LTX2Pipeline's defaults in diffusers "
            "0.42.1; text and audio enter by cross-attention only.",
            rule=TokenRule(pixels=32, frames=(1, 8)),
            usual=Resolution(512, 768, 121),
        ),
        ModelPreset(
            name="cogvideox1.5-5b",
            heads=48,
            kv_heads=48,
            head_dim=64,
            layers=42,
            text=(226, 0),
            source="CogVideoX1.5-5B, transformer/config.json: num_attention_heads 48, attention_head_dim 64, "
            "num_layers 42, patch_size 2, patch_size_t 2, so that 8k+1 frames are 2k+1 latents, padded to k+1 pairs "
            "(diffusers 0.42.1 CogVideoXPipeline); 226 text tokens, its max_sequence_length, before the video.",
            rule=TokenRule(frames=(1, 8)),
            usual=Resolution(768, 1360, 81),
        ),
        ModelPreset(
            name="minimax-h3",
            heads=56,
            kv_heads=56,
            head_dim=128,
            layers=50,
            text=(951, 0),
            source="MiniMax-H3, diffusers 0.42.1 MiniMaxH3Transformer3DModel: num_attention_heads 56, "
            "attention_head_dim 128, num_layers 50, patch_size (1, 2, 2); its VAE makes 5k+2 latents of 17k+5 frames "
            "and covers 16 x 16 pixels; text, conditions and audio are joined before the video, here 951 rows for 124 "
            "frames and 1,234 for 345.",
            rule=TokenRule(pixels=32, frames=(5, 17), tokens=(2, 5)),
            usual=Resolution(768, 1344, 124),
            texts={102: (1234, 0)},
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
