"""The printed values of the VMoBA paper (arXiv 2506.23858v1, tables 1, 2 and 5): FLOPs, densities and factors.

The paper calls the densities "Sparsity", but they are fractions of pairs kept. The settings of a row are those of the
paper's table 4. For MoBA (15 of 60 blocks) and SVG (counted as 32 of 64 scored blocks) they are those of
``src/cal_theo_flops.py`` in its repository. DiTFastAttn is in neither; its density without scores gives the printed
value. Other readings that name no table are ours, found by trying which settings give the printed value. The rows of
the pretrained model repeat the FLOPs of full attention and are left out.
"""

from __future__ import annotations

from attnbench.cost.flops.paper import LayerKind, Printed, Reading

_480P, _720P, _576P, _LONG, _320P = "81×480×832", "81×720×1280", "93×576×1024", "141×480×832", "81×320×512"

_FULL = Reading("every pair", (LayerKind(),))
_DITFASTATTN = Reading("half the pairs, no scores", (LayerKind(0.5),))
_SVG = Reading("32 of 64 blocks, scored", (LayerKind(0.5, 64),))

# Blocks of table 4: 1-D, 2-D, 3-D. It has none for 81×320×512, which is assumed to have those of 81×480×832.
_BLOCKS = {_480P: (7, 24, 72), _720P: (7, 40, 36), _576P: (8, 48, 72), _LONG: (7, 24, 36), _320P: (7, 24, 72)}


def _moba(blocks: int = 60) -> Reading:
    return Reading(f"{blocks // 4} of {blocks} blocks, scored", (LayerKind(0.25, blocks),))


def _vmoba(density: float, blocks: tuple[int, ...]) -> Reading:
    counted = "/".join(str(count) for count in blocks)
    return Reading(f"density {density} of {counted} blocks", tuple(LayerKind(density, count) for count in blocks))


def _topk(kept: tuple[int, ...], blocks: tuple[int, ...]) -> Reading:
    """Read the row as top-k: numbers of kept and of all blocks in layers 0, 1 and 2 mod 3."""
    shares = tuple(LayerKind(k / count, count) for k, count in zip(kept, blocks, strict=True))
    words = " of ".join("/".join(str(number) for number in numbers) for numbers in (kept, blocks))
    return Reading(f"{words} blocks", shares)


_MISTYPED = (
    "one digit is mistyped, it seems: the printed factors of DiTFastAttn and SVG follow from 281.64, those of MoBA and "
    "VMoBA from 282.64"
)
_COPIED = "the value of table 1, where the density is 0.31"
_CUT = "the factor is cut off, not rounded"

VMOBA_TABLES: tuple[Printed, ...] = (
    Printed(1, _480P, "FullAttn", 282.64, _FULL, note=_MISTYPED),
    Printed(1, _480P, "DiTFastAttn", 182.73, _DITFASTATTN, 0.50, 1.54),
    Printed(1, _480P, "SVG", 182.92, _SVG, 0.50, 1.54),
    Printed(1, _480P, "MoBA", 133.50, _moba(), 0.25, 2.12, (_moba(72),), "the factor is that of 282.64"),
    Printed(
        1, _480P, "VMoBA", 149.00, _vmoba(0.31, _BLOCKS[_480P]), 0.31, 1.90,
        (_topk((2, 6, 18), _BLOCKS[_480P]), _topk((3, 6, 18), _BLOCKS[_480P])),
        "it would take density 0.329; table 4 states k = 2/6/18, and with k = 3 for 1-D blocks the density is 0.31",
    ),
    Printed(1, _720P, "FullAttn", 1246.78, _FULL),
    Printed(1, _720P, "DiTFastAttn", 720.06, _DITFASTATTN, 0.50, 1.73),
    Printed(1, _720P, "SVG", 720.50, _SVG, 0.50, 1.73),
    Printed(1, _720P, "MoBA", 457.20, _moba(), 0.25, 2.73, (_moba(72),)),
    Printed(
        1, _720P, "VMoBA", 519.75, _vmoba(0.31, _BLOCKS[_720P]), 0.31, 2.40,
        (_topk((2, 10, 9), _BLOCKS[_720P]), _topk((3, 18, 18), (7, 72, 72))),
        "the rounding of 0.31 alone makes up to 5.27; table 4 states k = 2/10/9, density 0.262",
    ),
    Printed(2, _576P, "FullAttn", 705.02, _FULL),
    Printed(2, _576P, "DiTFastAttn", 423.22, _DITFASTATTN, 0.50, 1.66, note=_CUT),
    Printed(2, _576P, "SVG", 423.55, _SVG, 0.50, 1.66),
    Printed(2, _576P, "MoBA", 282.69, _moba(), 0.25, 2.49, (_moba(72),)),
    Printed(2, _576P, "VMoBA", 248.68, _vmoba(0.19, _BLOCKS[_576P]), 0.19, 2.83),
    Printed(2, _LONG, "FullAttn", 724.97, _FULL),
    Printed(2, _LONG, "DiTFastAttn", 434.31, _DITFASTATTN, 0.50, 1.67),
    Printed(2, _LONG, "SVG", 434.64, _SVG, 0.50, 1.67),
    Printed(2, _LONG, "MoBA", 289.16, _moba(), 0.25, 2.51, (_moba(36),)),
    Printed(
        2, _LONG, "VMoBA", 248.39, _vmoba(0.18, _BLOCKS[_LONG]), 0.18, 2.92, (_vmoba(0.18, (12, 24, 36)),),
        "table 4 states 7 1-D blocks, but 36 frames by 3 are 12",
    ),
    Printed(5, _480P, "FullAttn", 282.64, _FULL, note="as in table 1"),
    Printed(5, _480P, "DiTFastAttn", 182.73, _DITFASTATTN, 0.50),
    Printed(5, _480P, "SVG", 182.92, _SVG, 0.50),
    Printed(5, _480P, "MoBA", 133.50, _moba(), 0.25, others=(_moba(72),)),
    Printed(5, _480P, "VMoBA", 149.00, _vmoba(0.19, _BLOCKS[_480P]), 0.19, note=_COPIED),
    Printed(5, _320P, "FullAttn", 67.73, _FULL),
    Printed(5, _320P, "DiTFastAttn", 51.09, _DITFASTATTN, 0.50),
    Printed(5, _320P, "SVG", 51.17, _SVG, 0.50),
    Printed(5, _320P, "MoBA", 42.84, _moba(), 0.25),
    Printed(5, _320P, "VMoBA", 40.48, _vmoba(0.18, _BLOCKS[_320P]), 0.18, 1.67),
)  # fmt: skip
"""Every row that prints FLOPs, in the paper's order."""
