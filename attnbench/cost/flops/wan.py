"""The operations of a Wan 2.1 forward pass in closed form, part by part; a multiply-add counts as 2.

It counts the matrix products and the patch convolution, as torch's FlopCounterMode does on the real modules. Norms,
activations, rotary embedding, softmax and modulation are not counted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from math import prod
from typing import Any

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, whole_number

TEXT_TOKENS = 512
"""Length to which Wan pads its text: text_len of wan/configs/shared_config.py."""


@dataclass(frozen=True, slots=True)
class WanConfig:
    """Everything on which the FLOPs of a Wan transformer depend.

    Attributes:
        name: its name in ``attnbench.inputs.shapes.MODELS``.
        layers: transformer blocks.
        heads: attention heads; ``width`` is heads · head_dim.
        head_dim: channels per head.
        ffn_dim: channels between the two products of the feed-forward part.
        source: where the numbers are from.
        text_dim: channels of the text encoder.
        freq_dim: channels of the sinusoidal time embedding.
        channels: latent channels, in and out.
        patch: latent voxels that a token covers.
    """

    name: str
    layers: int
    heads: int
    head_dim: int
    ffn_dim: int
    source: str
    text_dim: int = 4096
    freq_dim: int = 256
    channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)

    @property
    def width(self) -> int:
        """Channels of a token."""
        return self.heads * self.head_dim

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of diffusers' WanTransformer3DModel.

        Those that change no product come from wan/modules/model.py.
        """
        return {
            "patch_size": self.patch,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "ffn_dim": self.ffn_dim,
            "num_layers": self.layers,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
            "rope_max_seq_len": 1024,
        }


WAN_MODELS: dict[str, WanConfig] = {
    config.name: config
    for config in (
        WanConfig(
            "wan2.1-1.3b", layers=30, heads=12, head_dim=128, ffn_dim=8960,
            source="Wan 2.1, wan/configs/wan_t2v_1_3B.py: dim 1536, ffn_dim 8960, num_heads 12, num_layers 30, "
            "freq_dim 256, patch_size (1, 2, 2); text_dim 4096 and 16 channels by default in wan/modules/model.py.",
        ),
        WanConfig(
            "wan2.1-14b", layers=40, heads=40, head_dim=128, ffn_dim=13824,
            source="Wan 2.1, wan/configs/wan_t2v_14B.py: dim 5120, ffn_dim 13824, num_heads 40, num_layers 40, "
            "freq_dim 256, patch_size (1, 2, 2); text_dim 4096 and 16 channels by default in wan/modules/model.py.",
        ),
    )
}  # fmt: skip
"""The text-to-video models of Wan 2.1 by name."""


@dataclass(frozen=True, slots=True)
class ForwardFlops:
    """Floating-point operations of one forward pass, all layers together.

    Attributes:
        patch_embedding: the convolution that makes the tokens.
        time_embedding: two products and the six modulation vectors.
        text_embedding: two products per text token.
        self_projections: q, k, v and output of self-attention.
        self_pairs: scores and weighted sum of self-attention over every pair.
        cross_projections: q and output for video tokens, k and v for text tokens.
        cross_pairs: scores and weighted sum, video queries by text keys.
        ffn: the two products of the feed-forward part.
        head: the product that turns tokens into latent voxels.
    """

    patch_embedding: int
    time_embedding: int
    text_embedding: int
    self_projections: int
    self_pairs: int
    cross_projections: int
    cross_pairs: int
    ffn: int
    head: int

    @property
    def parts(self) -> dict[str, int]:
        """The parts by name, in the order of the pass."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())

    def with_self_pairs(self, flops: int) -> ForwardFlops:
        """Return the same pass with ``flops`` for the pairs of self-attention, including its selection."""
        return dataclasses.replace(self, self_pairs=flops)


def forward_flops(config: WanConfig, grid: Grid, *, text_tokens: int = TEXT_TOKENS, batch: int = 1) -> ForwardFlops:
    """Return the operations of one forward pass with full self-attention.

    Args:
        config: the model.
        grid: video tokens after patching, T × H × W.
        text_tokens: text tokens that cross-attention sees.
        batch: number of videos. Guidance that runs the model twice is a batch of 2.

    Raises:
        BadInput: if ``text_tokens`` or ``batch`` is not a whole number of at least 1.
    """
    for name, value in (("text_tokens", text_tokens), ("batch", batch)):
        number = whole_number(value)
        if number is None or number < 1:
            raise BadInput(f"{name} {value!r} must be a whole number of at least 1")
    video, text, layers, width = batch * grid.tokens, batch * text_tokens, config.layers, config.width
    voxels = config.channels * prod(config.patch)
    return ForwardFlops(
        patch_embedding=2 * video * voxels * width,
        time_embedding=2 * batch * width * (config.freq_dim + width + 6 * width),
        text_embedding=2 * text * width * (config.text_dim + width),
        self_projections=layers * 4 * 2 * video * width**2,
        self_pairs=layers * 4 * video * grid.tokens * width,
        cross_projections=layers * 2 * 2 * (video + text) * width**2,
        cross_pairs=layers * 4 * video * text_tokens * width,
        ffn=layers * 2 * 2 * video * width * config.ffn_dim,
        head=2 * video * width * voxels,
    )
