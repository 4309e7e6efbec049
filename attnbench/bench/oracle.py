"""The oracle: attention over an explicit mask in float64, and how much rounding may move an engine away from it.

The expected rounding error is a model, not a bound. Rounding errors are taken as independent with a variance of u²/3
relative to each rounded number, where u is the unit roundoff: of the dtype for the weights that multiply V (dS in the
backward pass) and for the output, of the accumulator for scores and sums. A sum of n terms carries about √(n/2) u.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SAFETY = 4.0  # errors beyond four times their expected root mean square are taken for a defect
_LEAST = 1e-150  # stands for 0 where sizes divide; its square is still a float64


@dataclass(frozen=True, slots=True)
class Rounding:
    """Unit roundoffs: of the tensors' dtype, and of the accumulator an engine may use for it.

    ``step`` is the distance between the dtype's numbers near 0: below its normal range, rounding errors stay as large.
    """

    storage: float
    accumulator: float
    step: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> Rounding:
        """Accumulate in float32, float64 tensors in float64."""
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        info = torch.finfo(dtype)
        return cls(info.eps / 2, torch.finfo(wide).eps / 2, max(info.tiny * info.eps, _LEAST))

    def output_variance(self, value: Tensor, terms: Tensor | int) -> Tensor:
        """Return the expected squared error of rounding rows [..., D] and of summing ``terms`` numbers for each."""
        relative = self.storage**2 / 3 + self.accumulator**2 * terms / 2
        return relative * value.square().sum(-1) + self.step**2 / 12 * value.shape[-1]


@dataclass(frozen=True, eq=False)
class Exact:
    """A float64 result [..., rows, D] and the expected squared rounding error of each of its rows [..., rows]."""

    value: Tensor
    variance: Tensor

    def tolerance(self) -> Tensor:
        """Return the largest acceptable relative L2 error over the rows, [...]."""
        return SAFETY * self.variance.sum(-1).sqrt() / self._size()

    def error(self, other: Tensor) -> Tensor:
        """Return the relative L2 error of ``other`` over the rows, [...]. NaN where ``other`` is not finite."""
        return (other.double() - self.value).square().sum((-2, -1)).sqrt() / self._size()

    def _size(self) -> Tensor:
        return self.value.square().sum((-2, -1)).sqrt().clamp(min=_LEAST)


@dataclass(frozen=True, eq=False)
class Attended:
    """Attention of some query rows: weights [..., R, N], output, and log-sum-exp of kept scores [..., R], float64."""

    weights: Tensor
    output: Exact
    lse: Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, rounding: Rounding) -> Attended:
    """Attend over exactly the pairs of ``mask``.

    Args:
        q: [..., R, D]. k, v: [..., N, D]. mask: bool [..., R, N], or None for all. Rows that keep no key give zeros.
    """
    q, k, v = q.double(), k.double(), v.double()
    scores = scale * (q @ k.transpose(-1, -2))
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    top = scores.amax(-1, keepdim=True).nan_to_num(neginf=0.0)
    weights = (scores - top).exp()
    total = weights.sum(-1, keepdim=True)
    lse = (top + total.log()).squeeze(-1)
    weights = weights / total.clamp(min=1e-300)
    output = weights @ v
    kept = (weights > 0).sum(-1)
    spread = weights.square() @ v.square().sum(-1, keepdim=True)
    variance = _weights_variance(q, k, scale, rounding) * spread.squeeze(-1)
    variance = variance + rounding.output_variance(output, kept)
    return Attended(weights, Exact(output, variance), lse)


def lse_error(exact: Tensor, got: Tensor, q: Tensor, k: Tensor, scale: float, rounding: Rounding) -> float:
    """Return the largest error of log-sum-exps [R] over what rounding explains; NaN if one is. Both may be -inf.

    Args:
        exact, got: of query rows.
        q: the rows [R, D]. k: all keys [N, D].
        scale, rounding: of the scores.
    """
    reach = abs(scale) * q.double().norm(dim=-1) * k.double().norm(dim=-1).amax()
    coarse = rounding.storage / 4 if rounding.storage > rounding.accumulator else 0.0  # of a rounded scale times q
    allowed = SAFETY * (coarse + rounding.accumulator * (reach + 2 + len(k) ** 0.5))
    off = torch.where(exact == got.double(), 0.0, (exact - got.double()).abs())
    return float((off / allowed).max())


def _weights_variance(q: Tensor, k: Tensor, scale: float, rounding: Rounding) -> Tensor:
    """Return the expected squared relative error of a weight, by query row: its rounding, its score's and exp's."""
    reach = abs(scale) * q.norm(dim=-1) * k.norm(dim=-1).amax(-1, keepdim=True)
    variance: Tensor = rounding.storage**2 / 3 + (rounding.accumulator * (reach + 2)) ** 2
    return variance


@dataclass(frozen=True, eq=False)
class _ScoreGradients:
    """dS = P (dP - delta) of some pairs [..., R, C], and what rounding does to it, as expected squared errors.

    Attributes:
        value: dS.
        own: of each pair, from its own weight and dP.
        row: [..., R, 1], of a row's delta. All pairs of the row have this error, times their weight.
    """

    value: Tensor
    own: Tensor
    row: Tensor


def _score_gradients(
    p: Tensor, d_p: Tensor, delta: Tensor, delta_spread: Tensor, weight: Tensor, reach: Tensor, rounding: Rounding
) -> _ScoreGradients:
    """Return dS of some pairs and its rounding errors.

    Args:
        p, d_p: weights and their gradients [..., R, C].
        delta: sum of d_output * output, [..., R, 1].
        delta_spread: sum of d_output² * output²; engines compute delta from the rounded output.
        weight: expected squared relative error of a weight.
        reach: how large d_p may be.
        rounding: of the tensors.
    """
    d_s = p * (d_p - delta)
    u, w = rounding.storage, rounding.accumulator
    own = weight * d_s.square() + p.square() * (w * reach) ** 2
    return _ScoreGradients(d_s, own, u**2 / 3 * delta_spread + (w * (reach + delta.abs())) ** 2)


@dataclass(frozen=True, eq=False)
class QueryGradients:
    """dq of some queries, and the part of it that an error in delta does not move.

    Attributes:
        whole: dq [..., R, D].
        rest: dq without its component in the direction of ``mean_key``.
        mean_key: the mean of each query's keys, weighted by P: unit vectors [..., R, D], or zeros.
    """

    whole: Exact
    rest: Exact
    mean_key: Tensor

    def rest_of(self, dq: Tensor) -> Tensor:
        """Return what another dq [..., R, D] has besides its component in the direction of ``mean_key``, float64."""
        return _without(dq.double(), self.mean_key)


def _without(x: Tensor, direction: Tensor) -> Tensor:
    return x - (x * direction).sum(-1, keepdim=True) * direction


def _dq(p: Tensor, d_s: _ScoreGradients, k: Tensor, scale: float, rounding: Rounding) -> QueryGradients:
    """Return dq. The error of a row's delta adds up over its keys: it moves dq by their weighted mean."""
    value, mean = scale * (d_s.value @ k), p @ k
    pairs = (d_s.own @ k.square().sum(-1, keepdim=True)).squeeze(-1)
    own = scale**2 * pairs + rounding.output_variance(value, k.shape[-2])
    common = scale**2 * d_s.row.squeeze(-1) * mean.square().sum(-1)
    direction = torch.nn.functional.normalize(mean, dim=-1)
    return QueryGradients(Exact(value, own + common), Exact(_without(value, direction), own), direction)


def _dk(p: Tensor, d_s: _ScoreGradients, q: Tensor, scale: float, rounding: Rounding) -> Exact:
    """Return dk [..., C, D]. The deltas of its queries have errors of their own, which do not add up."""
    value = scale * (d_s.value.transpose(-1, -2) @ q)
    spread = d_s.own + p.square() * d_s.row
    variance = (spread.transpose(-1, -2) @ q.square().sum(-1, keepdim=True)).squeeze(-1)
    return Exact(value, scale**2 * variance + rounding.output_variance(value, q.shape[-2]))


def _dv(p: Tensor, d_output: Tensor, weight: Tensor, rounding: Rounding) -> Exact:
    """Return dv [..., C, D]."""
    value = p.transpose(-1, -2) @ d_output
    spread = (weight * p.square()).transpose(-1, -2) @ d_output.square().sum(-1, keepdim=True)
    return Exact(value, spread.squeeze(-1) + rounding.output_variance(value, d_output.shape[-2]))


@dataclass(frozen=True, eq=False)
class RowSums:
    """What the gradients of keys need of every query, float64 [N] each.

    Attributes:
        lse: log-sum-exp of its kept scores, -inf where it keeps no key.
        delta: sum of d_output * output.
        spread: sum of d_output² * output².
    """

    lse: Tensor
    delta: Tensor
    spread: Tensor


def query_gradients(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, mask: Tensor, scale: float, rounding: Rounding
) -> QueryGradients:
    """Return dq of some queries of one head.

    Args:
        q, d_output: [R, D]. k, v: [N, D]. mask: bool [R, N].
    """
    forward = attend(q, k, v, mask, scale, rounding)
    q, k, v, d_output = q.double(), k.double(), v.double(), d_output.double()
    p, output = forward.weights, forward.output.value
    delta = (d_output * output).sum(-1, keepdim=True)
    spread = (d_output.square() * output.square()).sum(-1, keepdim=True)
    weight = _weights_variance(q, k, scale, rounding)[..., None]
    reach = d_output.norm(dim=-1, keepdim=True) * v.norm(dim=-1).amax()
    return _dq(p, _score_gradients(p, d_output @ v.T, delta, spread, weight, reach, rounding), k, scale, rounding)


def key_gradients(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, d_output: Tensor, sums: RowSums, mask: Tensor, scale: float,
    rounding: Rounding,
) -> tuple[Exact, Exact]:  # fmt: skip
    """Return dk and dv of some keys, as far as they come from one head's queries.

    Args:
        q, k, v, d_output: of the head, [N, D].
        keys: int64 [K].
        sums: of all queries.
        mask: bool [N, K], which queries keep them.
    """
    weight = _weights_variance(q.double(), k.double(), scale, rounding)[..., None]
    farthest = v.double().norm(dim=-1).amax()
    q, d_output, some_k, some_v = q.double(), d_output.double(), k[keys].double(), v[keys].double()
    anchor = sums.lse.nan_to_num(neginf=0.0)[:, None]
    p = (scale * (q @ some_k.T) - anchor).masked_fill(~mask, -torch.inf).exp()
    reach = d_output.norm(dim=-1, keepdim=True) * farthest
    d_s = _score_gradients(p, d_output @ some_v.T, sums.delta[:, None], sums.spread[:, None], weight, reach, rounding)
    return _dk(p, d_s, q, scale, rounding), _dv(p, d_output, weight, rounding)


@dataclass(frozen=True, eq=False)
class Gradients:
    """dq, dk, dv of sum(output * d_output), float64."""

    dq: Exact
    dk: Exact
    dv: Exact


def gradients(
    q: Tensor, k: Tensor, v: Tensor, d_output: Tensor, mask: Tensor, scale: float, rounding: Rounding
) -> Gradients:
    """Differentiate attention over exactly the pairs of ``mask`` [..., N, N]; all tensors [..., N, D], equal heads."""
    forward = attend(q, k, v, mask, scale, rounding)
    q, k, v, d_output = q.double(), k.double(), v.double(), d_output.double()
    p, output = forward.weights, forward.output.value
    delta = (d_output * output).sum(-1, keepdim=True)
    delta_spread = (d_output.square() * output.square()).sum(-1, keepdim=True)
    weight = _weights_variance(q, k, scale, rounding)[..., None]
    reach = d_output.norm(dim=-1, keepdim=True) * v.norm(dim=-1).amax(-1)[..., None, None]
    d_s = _score_gradients(p, d_output @ v.transpose(-1, -2), delta, delta_spread, weight, reach, rounding)
    return Gradients(
        _dq(p, d_s, k, scale, rounding).whole, _dk(p, d_s, q, scale, rounding), _dv(p, d_output, weight, rounding)
    )
