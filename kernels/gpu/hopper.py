"""The conditions under which the Gluon kernels run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from attnbench.kernels.gpu.widen import INTERPRETED
from attnbench.kernels.gpu.work import KEYS, ROWS, RuleArrays


@cache
def is_hopper(device: torch.device) -> bool:
    """Return whether this is a GPU of compute capability 9.0, and kernels are compiled for it."""
    return not INTERPRETED and device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


@cache
def multiprocessors(device: torch.device) -> int:
    """Return the number of multiprocessors of a GPU."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def fits(gathered: Sequence[Tensor], arranged: Sequence[Tensor], rule: object, *sizes: int) -> bool:
    """Return whether the Gluon kernels take this: half precision, head_dim 64 or 128, tiles and steps of 128.

    A rule has to say how far ahead a query sees, and nothing else, or be a band.

    Args:
        gathered: [B, H, N, head_dim], whose rows are copied 16 bytes at a time.
        arranged: k and v as the kernels get them, copied by TMA, which needs the same alignment.
        rule: the element rule on the device, or None.
        sizes: rows of a tile, keys of a step.
    """
    first = gathered[0]
    half = first.dtype in (torch.bfloat16, torch.float16)
    known = half and first.shape[3] == arranged[0].shape[3] and written_for(first.shape[3], rule, *sizes)
    return known and all(_aligned(x) for x in (*gathered, *arranged))


def written_for(head_dim: int, rule: object, *sizes: int) -> bool:
    """Return whether the Gluon kernels take half precision with this head_dim, this rule and these sizes."""
    simple = rule is None or (isinstance(rule, RuleArrays) and (rule.ahead is not None or rule.band))
    return head_dim in (64, 128) and simple and set(sizes) == {ROWS} == {KEYS}


def _aligned(x: Tensor) -> bool:
    batch, head, row = x.stride()[:3]
    return x.data_ptr() % 16 == 0 and (batch | head | row) * x.element_size() % 16 == 0
