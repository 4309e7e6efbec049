"""Text masks: how many tokens are text, and that a mask is read once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnbench.kernels.errors import Unsupported
from attnbench.models.text_lengths import TextLengths

MASK = [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_text_is_counted_in_each_item(dtype: torch.dtype) -> None:
    assert TextLengths(counts=False).of(torch.tensor(MASK).to(dtype)) == (2, 4, 0)


def test_padding_before_text_is_refused_unless_the_model_only_counts() -> None:
    mask = torch.tensor([[0, 1, 1, 0]])
    with pytest.raises(Unsupported, match="padding before text"):
        TextLengths(counts=False).of(mask)
    assert TextLengths(counts=True).of(mask) == (2,)


def test_masks_that_take_turns_are_read_once_each_and_again_when_written(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Tensor] = []
    read = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda x: reads.append(x) or read(x))
    lengths, first, second = TextLengths(counts=False), torch.tensor(MASK), torch.tensor(MASK[:1])
    for _ in range(3):
        assert lengths.of(first) == (2, 4, 0)
        assert lengths.of(second) == (2,)
    assert len(reads) == 2
    first[0] = 1
    assert lengths.of(first) == (4, 4, 0)
