"""The oracle against plainer restatements of attention, and its rounding model against simulated engines."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnbench.bench import oracle
from attnbench.bench.oracle import Rounding

HALF = 0.5  # a correct engine stays under half of its tolerance
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def attention_in_loops(q: list[list[float]], k: Tensor, v: Tensor, mask: Tensor, scale: float) -> list[list[float]]:
    """Attention of one head with nothing but Python's numbers."""
    result = []
    for row, query in enumerate(q):
        kept = [key for key in range(len(k)) if mask[row, key]]
        scores = [scale * math.fsum(a * b for a, b in zip(query, k[key].tolist(), strict=True)) for key in kept]
        top = max(scores, default=0.0)
        weights = [math.exp(score - top) for score in scores]
        total = math.fsum(weights)
        result.append(
            [
                math.fsum(w * float(v[key, d]) for w, key in zip(weights, kept, strict=True)) / total if kept else 0.0
                for d in range(v.shape[1])
            ]
        )
    return result


@given(rows=st.integers(1, 5), keys=st.integers(1, 9), dim=st.integers(1, 6), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=40)
def test_attention_is_that_of_plain_loops(rows: int, keys: int, dim: int, seed: int, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.lists(st.booleans(), min_size=keys, max_size=keys), min_size=rows, max_size=rows))
    scale = data.draw(st.sampled_from([0.05, 0.7, 3.0, 40.0]))
    mask = torch.tensor(kept)
    q, k, v = draw(rows, dim, seed=seed), draw(keys, dim, seed=seed + 1), draw(keys, dim, seed=seed + 2)
    attended = oracle.attend(q, k, v, mask, scale, Rounding.of(torch.float32))
    expected = torch.tensor(attention_in_loops(q.tolist(), k, v, mask, scale), dtype=torch.float64)
    torch.testing.assert_close(attended.output.value, expected, rtol=1e-12, atol=1e-12)
    assert bool((attended.weights[~mask] == 0).all())
    torch.testing.assert_close(attended.weights.sum(-1), mask.any(-1).double())


def test_no_mask_means_every_key() -> None:
    q, k, v = (draw(2, 5, 4, seed=seed) for seed in range(3))
    rounding = Rounding.of(torch.bfloat16)
    full = oracle.attend(q, k, v, None, 0.5, rounding)
    masked = oracle.attend(q, k, v, torch.ones(2, 5, 5, dtype=torch.bool), 0.5, rounding)
    assert torch.equal(full.output.value, masked.output.value)
    assert torch.equal(full.output.variance, masked.output.variance)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("density", [0.15, 0.6, 1.0])
def test_gradients_are_those_of_autograd(seed: int, density: float) -> None:
    n, dim, scale = 13, 5, 0.6
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, n, n, generator=generator) < density
    mask |= torch.eye(n, dtype=torch.bool)
    q, k, v = (draw(2, n, dim, seed=10 * seed + i).requires_grad_() for i in range(3))
    d_output = draw(2, n, dim, seed=10 * seed + 3)
    scores = (torch.einsum("bid,bjd->bij", q, k) * scale).masked_fill(~mask, -math.inf)
    torch.einsum("bij,bjd->bid", scores.softmax(-1), v).backward(d_output)
    with torch.no_grad():
        exact = oracle.gradients(q, k, v, d_output, mask, scale, Rounding.of(torch.float32))
    for value, leaf in ((exact.dq, q), (exact.dk, k), (exact.dv, v)):
        assert leaf.grad is not None
        torch.testing.assert_close(value.value, leaf.grad, rtol=1e-11, atol=1e-13)


# Engines of two kinds, as they round: scores and sums in float32, weights and output in the dtype of the tensors.


def online_engine(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Blocks of 64 keys, unnormalised weights, divided at the end: what flash kernels do."""
    dtype, shape = q.dtype, q.shape[:-1]
    top, total = torch.full((*shape, 1), -math.inf), torch.zeros(*shape, 1)
    output = torch.zeros(*shape, v.shape[-1])
    for keys, values in zip(k.split(64, -2), v.split(64, -2), strict=True):
        scores = scale * (q.float() @ keys.float().transpose(-1, -2))
        new = torch.maximum(top, scores.amax(-1, keepdim=True))
        weights, decay = (scores - new).exp(), (top - new).exp()
        output = output * decay + weights.to(dtype).float() @ values.float()
        total, top = total * decay + weights.sum(-1, keepdim=True), new
    return (output / total).to(dtype)


def plain_engine(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Softmax first, then the product with V."""
    weights = (scale * (q.float() @ k.float().transpose(-1, -2))).softmax(-1)
    return (weights.to(q.dtype).float() @ v.float()).to(q.dtype)


Simulated = Callable[[Tensor, Tensor, Tensor, float], Tensor]
ENGINES: list[Simulated] = [online_engine, plain_engine]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keys", [2, 3, 17, 300, 4096])
def test_rounding_alone_stays_under_half_of_the_tolerance(engine: Simulated, dtype: torch.dtype, keys: int) -> None:
    dim, ratios = 32, []
    for seed in range(2 if keys > 1000 else 6):
        for rows in (1, 64):
            for gain in (0.01, 1.0, 8.0, 40.0):  # from uniform weights to one key that takes all
                q = (gain * draw(rows, dim, seed=seed)).to(dtype)
                k, v = draw(keys, dim, seed=seed + 50, dtype=dtype), draw(keys, dim, seed=seed + 90, dtype=dtype)
                exact = oracle.attend(q, k, v, None, dim**-0.5, Rounding.of(dtype)).output
                ratios.append(float(exact.error(engine(q, k, v, dim**-0.5)) / exact.tolerance()))
    assert 0.02 < max(ratios) < HALF  # nor is the model so generous that it hides things


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dominant_key_and_values_with_an_offset_stay_under_half(engine: Simulated, dtype: torch.dtype) -> None:
    keys, dim = 1500, 64
    for seed in range(3):
        q, k, v = (draw(64, dim, seed=seed), draw(keys, dim, seed=seed + 5), 3 + draw(keys, dim, seed=seed + 9))
        k[7] = 4 * q.mean(0) / q.mean(0).norm() * math.sqrt(dim)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        exact = oracle.attend(q, k, v, None, dim**-0.5, Rounding.of(dtype)).output
        assert float(exact.error(engine(q, k, v, dim**-0.5)) / exact.tolerance()) < HALF


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keys", [2, 40, 600])
@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_rounding_in_the_backward_pass_stays_under_half(dtype: torch.dtype, keys: int, mean: float) -> None:
    """A simulated backward pass: weights recomputed and rounded, delta from the rounded output, dS rounded.

    Keys and values of a video have a mean that is far from 0, so an error in delta adds up over all keys.
    """
    dim, scale = 32, 32**-0.5
    for seed in range(3):
        q, k, v, d_output = (draw(keys, dim, seed=seed + 10 * i) for i in range(4))
        q, k, v, d_output = (x.to(dtype) for x in (q, k + mean, v + mean, d_output))
        mask = torch.rand(keys, keys, generator=torch.Generator().manual_seed(seed)) < 0.4
        mask |= torch.eye(keys, dtype=torch.bool)
        weights = (scale * (q.float() @ k.float().T)).masked_fill(~mask, -math.inf).softmax(-1)
        output = (weights.to(dtype).float() @ v.float()).to(dtype)
        delta = (d_output.float() * output.float()).sum(-1, keepdim=True)
        d_scores = (weights * (d_output.float() @ v.float().T - delta)).to(dtype).float()
        got = {
            "dq": (scale * (d_scores @ k.float())).to(dtype),
            "dk": (scale * (d_scores.T @ q.float())).to(dtype),
            "dv": (weights.to(dtype).float().T @ d_output.float()).to(dtype),
        }
        exact = oracle.gradients(q, k, v, d_output, mask, scale, Rounding.of(dtype))
        of_queries = oracle.query_gradients(q, k, v, d_output, mask, scale, Rounding.of(dtype))
        rest = of_queries.rest_of(got["dq"])
        if keys > 2:  # what an error in delta does not move shows errors of 5 % whatever the mean
            assert float(of_queries.rest.error(rest) / of_queries.rest.tolerance()) < HALF
            assert float(of_queries.rest.error(rest * 1.05) / of_queries.rest.tolerance()) > 2
        for name, value in got.items():
            wanted = getattr(exact, name)
            ratio = float(wanted.error(value) / wanted.tolerance())
            assert 0.005 < ratio < HALF, (name, seed)
            if keys > 2 and not mean:  # two rows of bfloat16 leave 5 % within the tolerance, and so does a mean for dq
                wrong = float(wanted.error(value.double() * 1.05) / wanted.tolerance())
                assert wrong > 3, (name, seed)


@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 5000), (torch.float16, 8), (torch.bfloat16, 1.5)])
def test_planted_errors_exceed_the_tolerance(dtype: torch.dtype, factor: float) -> None:
    """In bfloat16, the coarsest type, 5 % on the scale is 1.5 tolerances; a lost block and a swapped head are 20."""
    keys, dim = 640, 64
    q, k, v, other = (draw(64 if i == 0 else keys, dim, seed=i, dtype=dtype) for i in range(4))
    exact = oracle.attend(q, k, v, None, dim**-0.5, Rounding.of(dtype)).output
    tolerance = float(exact.tolerance())

    def times(output: Tensor) -> float:
        return float(exact.error(output)) / tolerance

    assert times(online_engine(q, k, v, dim**-0.5)) < HALF
    assert times(online_engine(q, k, v, 1.05 * dim**-0.5)) > factor
    assert times(online_engine(q, k[64:], v[64:], dim**-0.5)) > 10 * factor
    assert times(online_engine(q, k, other, dim**-0.5)) > 20 * factor


def test_what_is_not_finite_is_never_within_tolerance() -> None:
    q, k, v = (draw(4, 8, seed=i, dtype=torch.bfloat16) for i in range(3))
    exact = oracle.attend(q, k, v, None, 0.3, Rounding.of(torch.bfloat16)).output
    for bad in (math.nan, math.inf, -math.inf):
        output = exact.value.clone()
        output[2, 5] = bad
        assert not bool(exact.error(output) <= exact.tolerance())


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_rows_without_a_key_must_be_zero(dtype: torch.dtype) -> None:
    """There rounding explains nothing, and still an exact answer must pass: 0 / 0 would not."""
    q, k, v = (draw(6, 8, seed=i, dtype=dtype) for i in range(3))
    exact = oracle.attend(q, k, v, torch.zeros(6, 6, dtype=torch.bool), 0.3, Rounding.of(dtype)).output
    assert bool((exact.value == 0).all())
    assert float(exact.tolerance()) > 0
    assert float(exact.error(torch.zeros(6, 8)) / exact.tolerance()) < HALF
    assert float(exact.error(torch.full((6, 8), 1e-3)) / exact.tolerance()) > 2


def test_a_gradient_that_is_zero_in_truth_may_be_rounding_noise() -> None:
    """With one key a row the weights are 1 whatever q is, so dq is 0; engines return the noise of dP - delta."""
    dtype, dim, n = torch.float32, 16, 9
    q, k, v, d_output = (draw(n, dim, seed=i, dtype=dtype) for i in range(4))
    exact = oracle.gradients(q, k, v, d_output, torch.eye(n, dtype=torch.bool), dim**-0.5, Rounding.of(dtype))
    noise = (d_output @ v.T).diagonal() - (d_output * v).sum(-1) + 1e-7
    got = dim**-0.5 * noise[:, None] * k
    assert float(exact.dq.error(got) / exact.dq.tolerance()) < HALF
    zero = oracle.Exact(torch.zeros_like(exact.dq.value), exact.dq.variance)
    assert float(zero.error(got) / zero.tolerance()) < HALF
    assert float(zero.error(1e5 * got) / zero.tolerance()) > 2


def test_values_below_the_normal_range_of_float16_are_allowed_their_coarse_steps() -> None:
    """Below 6e-5 the steps of float16 stay 6e-8: a relative error alone would call every engine wrong there."""
    q, k = draw(64, 32, seed=1, dtype=torch.float16), draw(500, 32, seed=2, dtype=torch.float16)
    v = (1e-5 * draw(500, 32, seed=3)).half()
    exact = oracle.attend(q, k, v, None, 32**-0.5, Rounding.of(torch.float16)).output
    for engine in ENGINES:
        assert float(exact.error(engine(q, k, v, 32**-0.5)) / exact.tolerance()) < HALF


def test_the_tolerance_follows_the_dtype_and_not_the_size_of_the_values() -> None:
    q, k, v = (draw(64, 32, seed=i) for i in range(3))

    def tolerance(dtype: torch.dtype, factor: float = 1.0) -> float:
        return float(oracle.attend(q, k, factor * v, None, 0.2, Rounding.of(dtype)).output.tolerance())

    by_dtype = [tolerance(dtype) for dtype in (torch.float64, *DTYPES)]
    assert by_dtype == sorted(by_dtype)
    # Unit roundoffs: 2^-53, 2^-24, 2^-11, 2^-8.
    assert by_dtype[3] / by_dtype[2] == pytest.approx(8, rel=0.02)
    assert by_dtype[1] / by_dtype[0] == pytest.approx(2**29, rel=0.02)
    assert tolerance(torch.bfloat16, 1000.0) == pytest.approx(tolerance(torch.bfloat16))
