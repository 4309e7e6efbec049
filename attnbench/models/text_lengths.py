"""Count the text tokens of each batch item that are not padding, reading the mask as seldom as possible."""

from __future__ import annotations

from torch import Tensor

from attnbench.kernels.errors import Unsupported

_KEPT = 4
"""Number of masks that are remembered. Guidance alternates between two."""


class TextLengths:
    """Reads text masks, each tensor once, because samplers pass the same ones in every step."""

    def __init__(self, counts: bool) -> None:
        """Begin with nothing read. With ``counts``, the position of text in the mask does not matter."""
        self._counts = counts
        self._read: list[tuple[Tensor, int, tuple[int, ...]]] = []

    def of(self, mask: Tensor) -> tuple[int, ...]:
        """Return the number of text tokens of each batch item.

        Args:
            mask: [B, text tokens], nonzero for text.

        Raises:
            Unsupported: if padding comes before text.
        """
        version = -1 if mask.is_inference() else mask._version
        for seen, at, lengths in self._read:
            if seen is mask and at == version >= 0:
                return lengths
        rows: list[list[bool]] = mask.detach().ne(0).tolist()
        lengths = tuple(sum(row) for row in rows)
        if not self._counts and not all(all(row[:length]) for row, length in zip(rows, lengths, strict=True)):
            raise Unsupported("the text mask has padding before text: a method needs the text tokens to come first")
        self._read = [(mask, version, lengths), *self._read][:_KEPT]
        return lengths
