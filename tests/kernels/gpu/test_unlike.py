"""The tokens that are least like the centre of their block, against their definition token by token in float64."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels import selection_ops
from attnbench.kernels.errors import Unsupported
from attnbench.kernels.flop_formulas import register_flops
from attnbench.kernels.gpu.selection import unlike as kernels
from attnbench.kernels.unlike import split_flops, split_unlike
from tests.kernels.gpu.draws import draws

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def by_definition(x: Tensor, blocks: list[list[int]], centres: list[int], counts: list[int]) -> list[list[int]]:
    """Return the chosen tokens of each block of one head [N, D]."""
    chosen = []
    for block, centre, count in zip(blocks, centres, counts, strict=True):
        middle = x[block[centre]]
        cosine = {
            token: float(x[token] @ middle / (x[token].norm() * middle.norm()).clamp(min=1e-16)) for token in block
        }
        best = sorted(
            block, key=lambda token, block=block, cosine=cosine: (round(cosine[token], 6), block.index(token))
        )
        chosen.append(sorted(best[:count], key=block.index))
    return chosen


@pytest.mark.parametrize("by_kernels", [False, True])
@settings(max_examples=draws(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.sampled_from([1, 2, 5, 33, 64]), min_size=1, max_size=3),
    text=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    ordered=st.booleans(),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    dim=st.sampled_from([8, 24]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@example(sizes=[1, 1, 33], text=(0, 0), ordered=False, share=0.1, dim=8, dtype=torch.float32, seed=11)  # on an H200
def test_split_equals_its_definition(
    by_kernels: bool, sizes: list[int], text: tuple[int, int], ordered: bool, share: float, dim: int,
    dtype: torch.dtype, seed: int,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    n = sum(sizes) + 3 * sum(text)
    x = torch.randn(2, n, 2, dim, generator=random).to(DEVICE, dtype).transpose(1, 2)
    order = torch.randperm(n, generator=random) if ordered else torch.arange(n)
    edges = [0, *([3] * text[0] + sizes + [3] * text[1])]
    offsets = torch.tensor(edges).cumsum(0)
    counts, centres = [max(1, int(share * size)) for size in sizes], [size // 2 for size in sizes]
    arguments = [x, order.to(DEVICE) if ordered else None, offsets.to(DEVICE)]
    arguments += [torch.tensor(each, device=DEVICE) for each in (centres, counts)]
    with selection_ops.interpreted() if by_kernels else torch.no_grad():
        means, arranged, nearest = split_unlike(*arguments, first=text[0], size=max(sizes))
    blocks = [order[start:stop].tolist() for start, stop in itertools.pairwise(offsets)]
    tiles = blocks[text[0] : len(blocks) - text[1]]
    for b in range(2):
        for h in range(2):
            wide = x[b, h].cpu().double()
            chosen = by_definition(wide, tiles, centres, counts)
            wanted, source = [*blocks[0]] if text[0] else [], list(range(n))
            for block, mine in zip(tiles, chosen, strict=True):
                wanted += [*mine, *(token for token in block if token not in mine)]
                for token in block:
                    at = block.index(token)
                    source[token] = min(
                        mine, key=lambda other, at=at, block=block: (abs(block.index(other) - at), block.index(other))
                    )
            wanted += blocks[-1] if text[1] else []
            assert arranged[b, h].tolist() == wanted
            assert nearest[b, h].tolist() == source
            exact = torch.stack([wide[mine].mean(0) for mine in chosen])
            torch.testing.assert_close(means[b, h].cpu().double(), exact, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("by_kernels", [False, True])
def test_the_first_of_equal_tokens_is_chosen(by_kernels: bool) -> None:
    x = torch.ones(1, 1, 6, 16, device=DEVICE)
    x[0, 0, 5] = 0.0  # without direction: its cosine is 0
    numbers = [torch.tensor(each, device=DEVICE) for each in ([0, 6], [3], [3])]
    with selection_ops.interpreted() if by_kernels else torch.no_grad():
        _, arranged, nearest = split_unlike(x, None, *numbers, first=0, size=6)
    assert arranged.flatten().tolist() == [0, 1, 5, 2, 3, 4]
    assert nearest.flatten().tolist() == [0, 1, 1, 1, 5, 5]


def test_what_the_kernel_does_not_take_is_refused() -> None:
    numbers = [torch.tensor(each, device=DEVICE) for each in ([0, 4], [2], [2])]
    with pytest.raises(Unsupported, match="float64"):
        kernels.split_unlike(torch.zeros(1, 1, 4, 8, dtype=torch.float64, device=DEVICE), None, *numbers, 0, 4)


def test_the_operator_is_as_torch_wants_it_and_states_its_flops() -> None:
    x = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    offsets, centres, counts = (torch.tensor(each, device=DEVICE) for each in ([0, 4, 9], [2, 2], [2, 3]))
    with selection_ops.interpreted():
        operator = torch.ops.attnbench.split_unlike.default
        torch.library.opcheck(operator, (x, None, offsets, centres, counts, 0, 5))
    register_flops()
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        split_unlike(x, None, offsets, centres, counts, first=0, size=5)
    assert counter.get_total_flops() == split_flops(x.shape) == 5 * x.numel()


@pytest.mark.parametrize("by_kernels", [False, True])
@pytest.mark.parametrize("spoiled", [(3,), (3, 8), (16,), range(33)], ids=str)
def test_tokens_that_are_no_number_are_chosen_first_and_none_is_lost(by_kernels: bool, spoiled: Sequence[int]) -> None:
    x = torch.randn(1, 1, 33, 8, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    x[0, 0, list(spoiled)] = torch.nan
    offsets, centres, counts = (torch.tensor(numbers, device=DEVICE) for numbers in ([0, 33], [16], [5]))
    with selection_ops.interpreted() if by_kernels else nullcontext():
        means, arranged, nearest = split_unlike(x, None, offsets, centres, counts, first=0, size=33)
    assert arranged[0, 0].sort().values.tolist() == list(range(33))
    chosen = arranged[0, 0, :5].tolist()
    first = list(range(33)) if 16 in spoiled else list(spoiled)  # beside such a centre all cosines are no numbers
    assert set(first[:5]) <= set(chosen)
    assert means.isnan().all() == bool(set(chosen) & set(spoiled))
    assert set(nearest[0, 0].tolist()) == set(chosen)
