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
    """Attention of some query rows: float64 weights [..., R, N], and the output."""

    weights: Tensor
    output: Exact


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
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    output = weights @ v
    kept = (weights > 0).sum(-1)
    spread = weights.square() @ v.square().sum(-1, keepdim=True)
    variance = _weights_variance(q, k, scale, rounding) * spread.squeeze(-1)
    variance = variance + rounding.output_variance(output, kept)
    return Attended(weights, Exact(output, variance))


def _weights_variance(q: Tensor, k: Tensor, scale: float, rounding: Rounding) -> Tensor:
    """Return the expected squared relative error of a weight, by query row: its rounding, its score's and exp's."""
    reach = abs(scale) * q.norm(dim=-1) * k.norm(dim=-1).amax(-1, keepdim=True)
    variance: Tensor = rounding.storage**2 / 3 + (rounding.accumulator * (reach + 2)) ** 2
    return variance


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
    d_p = d_output @ v.transpose(-1, -2)
    delta = (d_output * output).sum(-1, keepdim=True)
    d_s = p * (d_p - delta)

    u, w = rounding.storage, rounding.accumulator
    weight = _weights_variance(q, k, scale, rounding)[..., None]
    # For dS = P (dP - delta): its own rounding, P's, and delta's, since engines compute delta from the rounded output.
    delta_variance = u**2 / 3 * (d_output.square() * output.square()).sum(-1, keepdim=True)
    size = (d_output.norm(dim=-1, keepdim=True) * v.norm(dim=-1).amax(-1)[..., None, None] + delta.abs()) ** 2
    s_variance = weight * d_s.square() + p.square() * (delta_variance + w**2 * size)

    def exact(value: Tensor, spread: Tensor) -> Exact:
        return Exact(value, spread + rounding.output_variance(value, q.shape[-2]))

    def rows(x: Tensor) -> Tensor:
        return x.square().sum(-1, keepdim=True)

    dq = exact(scale * (d_s @ k), scale**2 * (s_variance @ rows(k)).squeeze(-1))
    dk = exact(scale * (d_s.transpose(-1, -2) @ q), scale**2 * (s_variance.transpose(-1, -2) @ rows(q)).squeeze(-1))
    dv = exact(p.transpose(-1, -2) @ d_output, ((weight * p.square()).transpose(-1, -2) @ rows(d_output)).squeeze(-1))
    return Gradients(dq, dk, dv)
