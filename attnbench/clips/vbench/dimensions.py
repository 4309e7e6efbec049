"""The dimensions of VBench that attnbench runs, and the weights that each of them reads.

Files and addresses are those of vbench 0.1.5 (``vbench/utils.py``). Sizes are rounded. A checksum is known if the
publisher puts it into the address or the file name. For other files, only their presence can be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnbench.kernels.errors import BadInput, unknown_name

_OPENAI = "https://openaipublic.azureedge.net/clip/models"
_HUGGING_FACE = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Weight:
    """One file that a dimension reads, or one folder.

    Attributes:
        path: where VBench looks for it below the weights folder (``VBENCH_CACHE_DIR``).
        url: where its authors publish it.
        about_mb: its size in MB, rounded.
        digest: the first hex digits of its SHA-256; empty if it is not published.
        inside: for a folder, the file that must be in it; empty for a file.
    """

    path: str
    url: str
    about_mb: float
    digest: str = ""
    inside: str = ""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One score of VBench.

    Attributes:
        name: VBench's name for it.
        model: the network behind it.
        meaning: what the value of a clip means.
        weights: the files that it reads; empty if it needs no network.
        prompts: whether it compares the clip with a prompt.
        scale: factor from the number that VBench writes for a clip to the scale of its published means.
        least_frames: the fewest frames that a clip may have.
    """

    name: str
    model: str
    meaning: str
    weights: tuple[Weight, ...] = ()
    prompts: bool = False
    scale: float = 1.0
    least_frames: int = 2


_ALL = (
    Dimension(
        "overall_consistency",
        "ViCLIP L/14",
        "cosine of the clip's and the prompt's embedding, 8 frames",
        (
            Weight(
                "ViCLIP/ViClip-InternVid-10M-FLT.pth",
                f"{_HUGGING_FACE}/OpenGVLab/VBench_Used_Models/resolve/main/ViClip-InternVid-10M-FLT.pth",
                1700,
            ),
        ),
        prompts=True,
    ),
    Dimension(
        "dynamic_degree",
        "RAFT-things",
        "1 if enough frames, at about 8 a second, move fast, else 0",
        (
            Weight(
                "raft_model/models/raft-things.pth",
                "https://dl.dropboxusercontent.com/s/4j4z58wuv8o0mfz/models.zip (81 MB, holds models/raft-things.pth)",
                21,
            ),
        ),
    ),
    Dimension(
        "background_consistency",
        "CLIP ViT-B/32",
        "cosine of a frame with the first and the previous one, averaged",
        (
            Weight(
                "clip_model/ViT-B-32.pt",
                f"{_OPENAI}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
                354,
                digest="40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            ),
        ),
    ),
    Dimension(
        "imaging_quality",
        "MUSIQ-SPAQ",
        "predicted opinion score of a frame / 100, averaged",
        (
            Weight(
                "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",
                "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/musiq_spaq_ckpt-358bb6af.pth",
                109,
                digest="358bb6af",
            ),
        ),
        scale=0.01,
    ),
    Dimension(
        "subject_consistency",
        "DINO ViT-B/16",
        "cosine of a frame with the first and the previous one, averaged",
        (
            Weight(
                "dino_model/facebookresearch_dino_main",
                "https://github.com/facebookresearch/dino (git clone)",
                0.1,
                inside="hubconf.py",
            ),
            Weight(
                "dino_model/dino_vitbase16_pretrain.pth",
                "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
                343,
            ),
        ),
    ),
    Dimension(
        "temporal_flickering",
        "none",
        "1 - mean absolute difference of neighbouring frames / 255",
    ),
    Dimension(
        "motion_smoothness",
        "AMT-S",
        "1 - mean absolute difference of odd frames from interpolated ones / 255",
        (Weight("amt_model/amt-s.pth", f"{_HUGGING_FACE}/lalala125/AMT/resolve/main/amt-s.pth", 12),),
        least_frames=3,
    ),
)

DIMENSIONS = {dimension.name: dimension for dimension in _ALL}
"""Every dimension that attnbench runs, by VBench's name."""

ALWAYS = "temporal_flickering"
"""The dimension that always runs, because it needs no weights."""

PAPER_DIMENSIONS = tuple(dimension.name for dimension in _ALL[:5])
"""The five dimensions of the VMoBA paper's tables (arXiv:2506.23858)."""

DEFAULT_DIMENSIONS = (*PAPER_DIMENSIONS, ALWAYS)
"""The dimensions that run by default."""

_REFUSED = {
    "object_class", "multiple_objects", "scene", "appearance_style", "color", "spatial_relationship",
}  # fmt: skip
_NOT_SET_UP = {"aesthetic_quality", "temporal_style", "human_action"}


def choose(names: Sequence[str] | None) -> tuple[Dimension, ...]:
    """Return the dimensions that were asked for, each once, and ``temporal_flickering`` in any case.

    Args:
        names: VBench's names; None for the default set.

    Raises:
        BadInput: if a name is unknown, or belongs to a dimension that VBench computes on its own prompts only.
    """
    wanted = list(dict.fromkeys(DEFAULT_DIMENSIONS if names is None else names))
    for name in wanted:
        if name in _REFUSED:
            raise BadInput(
                f"dimension {name!r} needs the objects of VBench's own prompts, and VBench refuses it for other clips; "
                f"known: {', '.join(sorted(DIMENSIONS))}"
            )
        if name in _NOT_SET_UP:
            raise BadInput(
                f"dimension {name!r} of VBench is not part of this environment; known: {', '.join(sorted(DIMENSIONS))}"
            )
        if name not in DIMENSIONS:
            raise unknown_name("dimension", name, DIMENSIONS)
    return tuple(DIMENSIONS[name] for name in dict.fromkeys((*wanted, ALWAYS)))
