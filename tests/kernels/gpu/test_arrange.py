"""Arranging tokens against plain indexing."""

from __future__ import annotations

import pytest
import torch

from attnbench.kernels.gpu.arrange import arrange, arrange_both, padded_width


def _x(device: torch.device, heads: int = 2, head_dim: int = 40) -> torch.Tensor:
    return torch.randn(2, 70, heads, head_dim, generator=torch.Generator().manual_seed(0)).to(device).transpose(1, 2)


@pytest.mark.parametrize("width", [None, 40, 64])
@pytest.mark.parametrize("kind", ["grid", "one", "each"])
def test_tokens_come_in_order_and_columns_are_filled_with_zeros(
    kind: str, width: int | None, device: torch.device
) -> None:
    x = _x(device)
    generator = torch.Generator().manual_seed(1)
    orders = {
        "grid": None,
        "one": torch.randperm(70, generator=generator).to(device),
        "each": torch.rand(2, 2, 70, generator=generator).argsort(-1).to(device),
    }
    order = orders[kind]
    wanted = x if order is None else x.gather(2, order.expand(2, 2, 70)[..., None].expand_as(x))
    arranged = arrange(x, order, width)
    assert arranged.is_contiguous()
    assert torch.equal(arranged[..., :40], wanted)
    assert arranged.shape[3] == (width or 40)
    assert (arranged[..., 40:] == 0).all()


@pytest.mark.parametrize("users", [0, 3])
def test_nothing_is_copied_for_nobody(users: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    x, order = _x(device), torch.randperm(70, generator=torch.Generator().manual_seed(1)).to(device)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "empty", torch.zeros)
        arranged = arrange(x, order, users=torch.tensor([users], dtype=torch.int32, device=device))
    assert torch.equal(arranged, x[:, :, order] if users else torch.zeros_like(arranged))


def test_kv_heads_are_repeated_where_each_query_head_has_its_order(device: torch.device) -> None:
    x = _x(device)
    order = torch.rand(2, 6, 70, generator=torch.Generator().manual_seed(1)).argsort(-1).to(device)
    repeated = x.repeat_interleave(3, 1)
    wanted = repeated.gather(2, order[..., None].expand_as(repeated))
    assert torch.equal(arrange(x, order), wanted)


@pytest.mark.parametrize("places", [1, 63, 200])
def test_places_may_be_more_or_fewer_than_tokens(places: int, device: torch.device) -> None:
    x = _x(device)
    order = torch.randint(70, (places,), generator=torch.Generator().manual_seed(1)).to(device)
    assert torch.equal(arrange(x, order), x[:, :, order])


def test_nothing_is_copied_where_nothing_is_to_be_done(device: torch.device) -> None:
    x = _x(device).contiguous()
    assert arrange(x, None, 40).data_ptr() == x.data_ptr()


def test_widths_are_those_of_the_kernels() -> None:
    assert [padded_width(d) for d in (1, 64, 65, 128)] == [64, 64, 128, 128]


@pytest.mark.parametrize("kind", ["grid", "one", "each"])
def test_keys_and_values_are_arranged_together_whatever_their_strides(kind: str, device: torch.device) -> None:
    k, v = _x(device), torch.randn(2, 2, 70, 48, generator=torch.Generator().manual_seed(3)).to(device)[..., :40]
    generator = torch.Generator().manual_seed(1)
    order = {
        "grid": None,
        "one": torch.randperm(70, generator=generator).to(device),
        "each": torch.rand(2, 4, 70, generator=generator).argsort(-1).to(device),
    }[kind]
    keys, values = arrange_both(k, v, order, 64)
    assert torch.equal(keys, arrange(k, order, 64))
    assert torch.equal(values, arrange(v, order, 64))
