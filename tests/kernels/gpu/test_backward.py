"""Gradients over hand-made tiles and key tiles, against float64 autograd of softmax attention over whole matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.kernels.gpu.backward import KeysTuning, QueriesTuning, backward_keys, backward_queries, delta_of
from attnbench.kernels.gpu.work import KeyTiles, RuleArrays, Tiles
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.rule import causal
from tests.kernels.gpu.draws import draws

Oracle = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
PADDED = 64


@dataclass(frozen=True)
class Blocks:
    """Blocks of queries and of keys, token orders, and which pairs of blocks each head keeps."""

    q_sizes: list[int]
    k_sizes: list[int]
    keep: Tensor  # bool [B, H, q blocks, k blocks]
    q_order: Tensor  # [N]
    k_order: Tensor  # [N]
    masked: bool = False

    def mask(self) -> Tensor:
        """Which pairs of tokens are kept, bool [B, H, N, N]."""
        q_block, k_block = (
            torch.repeat_interleave(torch.tensor(sizes))[order.argsort()]
            for sizes, order in ((self.q_sizes, self.q_order), (self.k_sizes, self.k_order))
        )
        return self.keep[:, :, q_block][..., k_block]

    def places(self, rows: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Query tokens, each block from a new tile on, and where each block's places begin and end."""
        queries: list[int] = []
        spans = []
        for part in self.q_order.split(self.q_sizes):
            spans.append((len(queries), len(queries) + len(part)))
            queries += part.tolist() + [-1] * (-len(part) % rows)
        return queries, spans

    def tiles(self, rows: int, keys: int) -> Tiles:
        sign = -1 if self.masked else 1
        ends = torch.tensor(self.k_sizes).cumsum(0).tolist()
        queries, spans = self.places(rows)
        records, segments = [], []
        for head, blocks in enumerate(self.keep.flatten(0, 1).tolist()):
            for (first, last), kept in zip(spans, blocks, strict=True):
                begin = len(segments)
                own = [(end - size, sign * end) for end, size, k in zip(ends, self.k_sizes, kept, strict=True) if k]
                segments += own
                steps = sum(-(-(abs(end) - start) // keys) for start, end in own)
                for place in range(first, last, rows):
                    records.append([head, place, begin, *(own[0] if own else (0, 0)), steps, 0, 0])
        segments.append((0, 0))
        count = torch.tensor([len(records)], dtype=torch.int32)
        unused = [[-1] * 8] * 3
        return Tiles(_ints(queries), _ints(records + unused), count, _ints(segments), rows, keys)

    def key_tiles(self, rows: int, keys: int) -> KeyTiles:
        sign = -1 if self.masked else 1
        queries, spans = self.places(rows)
        records, segments = [], []
        for blocks in self.keep.flatten(0, 1).mT.tolist():
            row, start = [], 0
            for size, kept in zip(self.k_sizes, blocks, strict=True):
                begin = len(segments)
                segments += [(first, sign * last) for (first, last), k in zip(spans, kept, strict=True) if k]
                for tile in range(start, start + size, keys):
                    end = min(tile + keys, start + size)
                    row.append([tile, end, begin, len(segments) - begin, 0, 0, 0, 0])
                start += size
            records.append([*row, [0] * 8])
        segments.append((0, 0))
        return KeyTiles(_ints(queries), _ints(records), _ints(segments), keys)


def _ints(numbers: object) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _cuts(seed: int, n: int, blocks: int) -> list[int]:
    inner = torch.randperm(n - 1, generator=torch.Generator().manual_seed(seed))[: blocks - 1] + 1
    bounds = [0, *sorted(inner.tolist()), n]
    return [b - a for a, b in pairwise(bounds)]


def _make(seed: int, n: int, heads: tuple[int, int], density: float, blocks: int = 3, masked: bool = False) -> Blocks:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(*heads, blocks, blocks, generator=generator) < density
    orders = [torch.randperm(n, generator=generator) for _ in range(2)]
    return Blocks(_cuts(seed, n, blocks), _cuts(seed + 1, n, blocks), keep, *orders, masked)


@dataclass(frozen=True)
class Problem:
    q: Tensor
    k: Tensor
    v: Tensor
    d_output: Tensor
    d_lse: Tensor
    output: Tensor
    lse: Tensor
    gradients: tuple[Tensor, Tensor, Tensor]
    scale: float


def _problem(oracle: Oracle, mask: Tensor, kv_heads: int, d: int, device: torch.device, spread: float = 1.0) -> Problem:
    batch, heads, n, _ = mask.shape
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, d_output = (spread * _random(1, batch, heads, n, d)).to(dtype), _random(2, batch, heads, n, d).to(dtype)
    k, v = (_random(seed, batch, kv_heads, n, d).to(dtype) for seed in (3, 4))
    d_lse, scale = _random(5, batch, heads, n), d**-0.5
    leaves = [x.double().requires_grad_() for x in (q, k, v)]
    output, lse = oracle(*leaves, mask, scale)
    total = (output * d_output).sum() + (lse.masked_fill(lse == -torch.inf, 0) * d_lse).sum()
    gradients = torch.autograd.grad(total, leaves)
    inputs = (x.to(device) for x in (q, k, v, d_output, d_lse, output.detach().to(dtype), lse.detach().float()))
    return Problem(*inputs, gradients, scale)


def _arranged(x: Tensor, order: Tensor, width: int = PADDED) -> Tensor:
    return torch.nn.functional.pad(x[:, :, order.to(x.device)], (0, width - x.shape[3])).contiguous()


def _to(work: Tiles | KeyTiles, device: torch.device) -> object:
    return replace(work, **{name: x.to(device) for name, x in vars(work).items() if isinstance(x, Tensor)})


def _near(got: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    assert torch.isfinite(got).all()
    if got.dtype == torch.bfloat16:
        tolerance = max(tolerance, 2e-2)
    reach = max(1.0, float(wanted.abs().max()))
    assert float((got.cpu().double() - wanted).abs().max()) < tolerance * reach


def _gradients(
    p: Problem, blocks: Blocks, device: torch.device, rows: int = 16, keys: int = 16, rule: RuleArrays | None = None,
    tunings: tuple[QueriesTuning | None, KeysTuning | None] = (None, None),
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tiles, key_tiles = _to(blocks.tiles(rows, keys), device), _to(blocks.key_tiles(rows, keys), device)
    assert isinstance(tiles, Tiles)
    assert isinstance(key_tiles, KeyTiles)
    delta = delta_of(p.output, p.d_output, p.d_lse)
    k, v = _arranged(p.k, blocks.k_order), _arranged(p.v, blocks.k_order)
    dq = torch.full_like(p.q, torch.nan)
    given_back = backward_queries(
        p.q, k, v, p.d_output, p.lse, delta, tiles, p.scale, rule=rule, direct=dq, tuning=tunings[0]
    )
    assert given_back is dq
    token_of = blocks.k_order.to(device)
    dk, dv = backward_keys(
        p.q, k, v, p.d_output, p.lse, delta, key_tiles, p.scale, rule=rule, token_of=token_of, tuning=tunings[1]
    )
    return dq, dk, dv


@settings(max_examples=draws(10))
@given(
    n=st.integers(3, 70),
    shape=st.sampled_from([(1, 1, 1), (1, 2, 1), (2, 2, 2)]),
    density=st.sampled_from([0.0, 0.5, 1.0]),
    head_dim=st.sampled_from([40, 64]),
    keys=st.sampled_from([16, 32]),
    seed=st.integers(0, 2**16),
)
def test_gradients_equal_autograd(
    n: int, shape: tuple[int, int, int], density: float, head_dim: int, keys: int, seed: int, oracle: Oracle,
    device: torch.device,
) -> None:  # fmt: skip
    blocks = _make(seed, n, shape[:2], density)
    problem = _problem(oracle, blocks.mask(), shape[2], head_dim, device)
    for got, wanted in zip(_gradients(problem, blocks, device, keys=keys), problem.gradients, strict=True):
        _near(got, wanted)


@pytest.mark.parametrize("step", [16, 32, 128])
def test_steps_smaller_than_the_tiles_and_tiles_larger_than_the_blocks(
    step: int, oracle: Oracle, device: torch.device
) -> None:
    blocks = _make(3, 150, (1, 1), 0.8)
    problem = _problem(oracle, blocks.mask(), 1, 64, device)
    tunings = QueriesTuning(128, step, 4, 2, 1), KeysTuning(128, step, 4, 5)
    gradients = _gradients(problem, blocks, device, 128, 128, tunings=tunings)
    for got, wanted in zip(gradients, problem.gradients, strict=True):
        _near(got, wanted)


def test_partial_rows_add_up(oracle: Oracle, device: torch.device) -> None:
    both = _make(7, 60, (1, 2), 0.7, blocks=4)
    problem = _problem(oracle, both.mask(), 1, 64, device)
    delta = delta_of(problem.output, problem.d_output, problem.d_lse)
    k, v = _arranged(problem.k, both.k_order), _arranged(problem.v, both.k_order)
    total = torch.zeros(1, 2, 60, 64, dtype=torch.float64)
    for half in (slice(0, 2), slice(2, 4)):
        keep = torch.zeros_like(both.keep)
        keep[..., half] = both.keep[..., half]
        work = replace(both, keep=keep).tiles(16, 16)
        # The heads share their places here, so each is asked for on its own.
        for head in range(2):
            records = work.records[: int(work.count)]
            own = records[records[:, 0] == head]
            alone = replace(work, records=own, count=torch.tensor([len(own)], dtype=torch.int32))
            tiles = _to(alone, device)
            assert isinstance(tiles, Tiles)
            partial = backward_queries(problem.q, k, v, problem.d_output, problem.lse, delta, tiles, problem.scale)
            assert (partial.shape, partial.dtype) == ((len(work.queries), 64), problem.q.dtype)
            real = work.queries >= 0
            total[0, head, work.queries[real].long()] += partial.cpu().double()[real]
    _near(total, problem.gradients[0], 2e-5 if device.type == "cpu" else 2e-2)


@pytest.mark.parametrize("heads", [(1, 1), (2, 2)])
def test_a_rule_decides_in_masked_segments(heads: tuple[int, int], oracle: Oracle, device: torch.device) -> None:
    layout = Layout(Grid(50, 1, 1), (1, 2))
    n = layout.tokens
    blocks = _make(11, n, heads, 0.8, masked=True)
    packed = causal().pack(layout, torch.device("cpu"))
    token = torch.arange(n)
    text = (token < 1) | (token >= n - 2)
    allowed = (token[None] <= token[:, None]) | text[None] | text[:, None]
    problem = _problem(oracle, blocks.mask() & allowed, heads[1], 64, device)
    order = blocks.k_order
    by_head = order.expand(heads[0] * heads[1], n) if heads[0] > 1 else order
    rule = RuleArrays(
        packed.packed.to(device), packed.to_high.to(device), packed.packed[by_head].to(device),
        packed.from_low[by_head].to(device), text.to(device, torch.int8), text[by_head].to(device, torch.int8),
        packed.guard,
    )  # fmt: skip
    for got, wanted in zip(_gradients(problem, blocks, device, rule=rule), problem.gradients, strict=True):
        _near(got, wanted)


def test_scores_of_ten_thousand_stay_finite(oracle: Oracle, device: torch.device) -> None:
    blocks = _make(5, 60, (1, 2), 0.6)
    problem = _problem(oracle, blocks.mask(), 2, 64, device, spread=1e4)
    scores = (problem.q @ problem.k.mT).abs().max() * problem.scale
    assert scores > 1e4
    # A score of 1e4 is rounded to 1e-3 in float32, and a probability by as much.
    for got, wanted in zip(_gradients(problem, blocks, device), problem.gradients, strict=True):
        _near(got, wanted, 2e-2)


def test_rows_that_keep_nothing_take_no_part_even_if_their_delta_is_not_a_number(
    oracle: Oracle, device: torch.device
) -> None:
    blocks = _make(2, 40, (1, 1), 1.0)
    mask = blocks.mask()
    mask[0, 0, ::3] = False  # rows of whole tiles that say they keep nothing, as a rule can bring about
    problem = _problem(oracle, mask, 1, 64, device)
    broken = replace(problem, d_lse=problem.d_lse.masked_fill(problem.lse == -torch.inf, torch.nan))
    for got, wanted in zip(_gradients(broken, blocks, device), problem.gradients, strict=True):
        _near(got, wanted)


def test_keys_stay_where_they_are_without_an_order_and_go_where_each_head_has_them(
    oracle: Oracle, device: torch.device
) -> None:
    blocks = replace(_make(9, 40, (1, 2), 0.7), k_order=torch.arange(40))
    problem = _problem(oracle, blocks.mask(), 2, 64, device)
    delta = delta_of(problem.output, problem.d_output, problem.d_lse)
    key_tiles = _to(blocks.key_tiles(16, 16), device)
    assert isinstance(key_tiles, KeyTiles)
    given = (problem.q, problem.k, problem.v, problem.d_output, problem.lse, delta, key_tiles, problem.scale)
    gradients = backward_keys(*given)
    orders = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(h)) for h in range(2)]).to(device)
    out = torch.empty_like(problem.k), torch.empty_like(problem.v)
    assert backward_keys(*given, token_of=orders, out=out)[0] is out[0]
    for straight, moved, wanted in zip(gradients, out, problem.gradients[1:], strict=True):
        _near(straight, wanted)
        for head in range(2):
            assert torch.equal(moved[0, head][orders[head]], straight[0, head])


@given(shape=st.tuples(*[st.integers(1, 40)] * 2), d=st.sampled_from([1, 40, 64]), seed=st.integers(0, 99))
@settings(max_examples=draws(8))
def test_delta_of_any_strides(shape: tuple[int, int], d: int, seed: int, device: torch.device) -> None:
    heads, n = shape[0] % 3 + 1, shape[1]
    output, d_output = (_random(seed + i, 2, n, heads, d).to(device).transpose(1, 2) for i in range(2))
    d_lse = _random(seed, 2, n, heads).to(device).transpose(1, 2)
    dots = (output.double() * d_output.double()).sum(-1)
    for gradient, wanted in ((None, dots), (d_lse, dots - d_lse.double())):
        got = delta_of(output, d_output, gradient)
        assert got.is_contiguous()
        assert got.dtype == torch.float32
        assert torch.allclose(got.double(), wanted, atol=1e-4)
