"""Launches that were prepared by others: the same kernel with other addresses, alignments, numbers and types."""

from __future__ import annotations

import pytest
import torch

from attnbench.kernels.gpu.arrange import arrange


@pytest.mark.parametrize("again", range(2))  # the second time every kind is prepared
@pytest.mark.parametrize("start", [0, 1, 8])
@pytest.mark.parametrize("pitch", [16, 17, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_each_kind_of_arguments_gets_its_own_kernel(
    again: int, start: int, pitch: int, dtype: torch.dtype, device: torch.device
) -> None:
    for heads, n in ((1, 70), (2, 64)):
        values = torch.arange(start + heads * n * pitch, device=device).remainder(2003).to(dtype)
        x = values[start:].view(1, heads, n, pitch)[..., :16]
        order = torch.arange(n, device=device).flip(0)
        assert torch.equal(arrange(x, order), x[:, :, order])
