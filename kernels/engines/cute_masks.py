"""Element masks for flash-attn-4, which traces them into its kernels. Import only where flash-attn-4 is installed.

The arguments are vectors of one int32 on the device: batch item, head, query place and key place. ``aux`` holds the
tensors that were passed with the mask. A mask returns whether the pair is kept.
"""

from __future__ import annotations

from typing import Any

import cutlass
from flash_attn.cute.utils import scalar_to_ssa


def key_is_real(batch: Any, head: Any, query: Any, key: Any, lengths: Any, aux: Any) -> Any:
    """Drop keys that only fill a tile. aux: int32 [M], 1 for real keys."""
    return _at(aux[0], key) > 0


def rule_keeps(batch: Any, head: Any, query: Any, key: Any, lengths: Any, aux: Any) -> Any:
    """Apply an element rule like ``ElementRule``.

    aux: int32 q_packed, q_high, q_text of the query places, k_packed, k_low, k_text of the key places, and the guard
    bits [1]. Text is 1 and video 0; keys that only fill a tile are -2, so that no sum with them counts as text.
    """
    q_packed, q_high, q_text, k_packed, k_low, k_text, guard = aux
    bits = scalar_to_ssa(guard[0], cutlass.Int32)
    kind = _at(k_text, key)
    inside = (_at(k_low, key) - _at(q_packed, query)) & (_at(q_high, query) - _at(k_packed, key)) & bits
    return ((inside == bits) & (kind >= 0)) | (kind + _at(q_text, query) > 0)


def _at(values: Any, place: Any) -> Any:
    return scalar_to_ssa(values[place[0]], cutlass.Int32)
