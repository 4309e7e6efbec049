"""Attention of many sequences that lie one after another, each query with the keys of its own sequence.

flash-attn-4 runs if it is available and takes the tensors; otherwise plain torch runs sequence by sequence. The
backward pass accepts the log-sum-exp of a softmax over more keys than the call has, for several calls that are merged
to one attention. The gradient of a score is P (dP - delta), where P and delta follow from the merged log-sum-exp and
output alone, so each call yields its own share of the whole gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from attnbench.kernels.engines import flash4
from attnbench.kernels.engines.base import import_problem


@dataclass(frozen=True, eq=False)
class Sequences:
    """The positions of sequences among rows of queries and rows of keys. S is their number.

    Attributes:
        q_offsets: int32 [S + 1], where the queries of each sequence begin; a sequence may have none.
        k_offsets: int32 [S + 1], the same for keys.
        longest_q: upper bound of the queries of a sequence.
        longest_k: upper bound of the keys of a sequence.
    """

    q_offsets: Tensor
    k_offsets: Tensor
    longest_q: int
    longest_k: int


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of sums and log-sum-exps: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def varlen_forward(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, scale: float) -> tuple[Tensor, Tensor]:
    """Attend within each sequence.

    Args:
        q: [query rows, D]. k, v: [key rows, D].
        sequences: which rows belong together.
        scale: factor of the scores.

    Returns:
        output [query rows, D] in q's dtype, and the log-sum-exp [query rows] in float32, or float64 for float64.
    """
    return _flash_forward(q, k, v, sequences, scale) if by_flash(q) else _plain_forward(q, k, v, sequences, scale)


def varlen_backward(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor, d_lse: Tensor | None,
    sequences: Sequences, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the contribution of these sequences' pairs to the gradients of q, k and v.

    Args:
        q, k, v, sequences, scale: as in ``varlen_forward``.
        output, lse: output and log-sum-exp of the whole softmax, [query rows, D] and [query rows], possibly over more
            keys.
        d_output, d_lse: gradients of this output and log-sum-exp.

    Returns:
        dq [query rows, D], dk and dv [key rows, D]: in q's dtype by flash-attn-4, else in the type of ``lse``.
    """
    run = _flash_backward if by_flash(q) else _plain_backward
    return run(q, k, v, output, lse, d_output, d_lse, sequences, scale)


def by_flash(x: Tensor) -> bool:
    """Return whether flash-attn-4 runs these rows."""
    return x.is_cuda and flash_problem() is None


@cache
def flash_problem() -> str | None:
    """Return why flash-attn-4 cannot be used here, or None if it can."""
    return flash4.FLASH4.available() or import_problem(flash4.FLASH4.load)


def _plain_forward(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, scale: float) -> tuple[Tensor, Tensor]:
    dtype = wide(q.dtype)
    output = torch.zeros(q.shape[0], v.shape[1], dtype=q.dtype, device=q.device)
    lse = torch.full(q.shape[:1], -torch.inf, dtype=dtype, device=q.device)
    for rows, keys in _each(sequences):
        scores = q[rows].to(dtype) @ k[keys].to(dtype).T * scale
        lse[rows] = scores.logsumexp(-1)
        output[rows] = (scores.softmax(-1) @ v[keys].to(dtype)).to(q.dtype)
    return output, lse


def _plain_backward(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor, d_lse: Tensor | None,
    sequences: Sequences, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dtype = lse.dtype
    dq, dk, dv = (torch.zeros(x.shape, dtype=dtype, device=x.device) for x in (q, k, v))
    delta = (d_output.to(dtype) * output.to(dtype)).sum(-1)
    if d_lse is not None:
        delta = delta - d_lse
    for rows, keys in _each(sequences):
        q_rows, k_rows, d_rows = q[rows].to(dtype), k[keys].to(dtype), d_output[rows].to(dtype)
        weights = (q_rows @ k_rows.T * scale - lse[rows, None]).exp()
        dv[keys] = weights.T @ d_rows
        d_scores = weights * (d_rows @ v[keys].to(dtype).T - delta[rows, None]) * scale
        dq[rows] = d_scores @ k_rows
        dk[keys] = d_scores.T @ q_rows
    return dq, dk, dv


def _each(sequences: Sequences) -> Iterator[tuple[slice, slice]]:
    """Yield the rows of queries and of keys of each sequence that has queries."""
    q, k = sequences.q_offsets.tolist(), sequences.k_offsets.tolist()
    for s in range(len(q) - 1):
        if q[s] < q[s + 1]:
            yield slice(q[s], q[s + 1]), slice(k[s], k[s + 1])


def _flash_forward(q: Tensor, k: Tensor, v: Tensor, sequences: Sequences, scale: float) -> tuple[Tensor, Tensor]:
    from flash_attn.cute import flash_attn_varlen_func

    with torch.no_grad():
        output, lse = flash_attn_varlen_func(
            *(x[:, None] for x in (q, k, v)), softmax_scale=scale, return_lse=True, **_lengths(sequences)
        )
    return output[:, 0], lse[0]


def _flash_backward(
    q: Tensor, k: Tensor, v: Tensor, output: Tensor, lse: Tensor, d_output: Tensor, d_lse: Tensor | None,
    sequences: Sequences, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    # The public function would use the log-sum-exp of its own call. The function below it takes ours.
    from flash_attn.cute.interface import _flash_attn_bwd

    dq, dk, dv = _flash_attn_bwd(
        *(x[:, None] for x in (q, k, v, output, d_output)),
        lse[None],
        softmax_scale=scale,
        **_lengths(sequences),
        **({} if d_lse is None else {"dlse": d_lse[None]}),
    )
    return dq[:, 0], dk[:, 0], dv[:, 0]


def _lengths(sequences: Sequences) -> dict[str, Any]:
    return {
        "cu_seqlens_q": sequences.q_offsets,
        "cu_seqlens_k": sequences.k_offsets,
        "max_seqlen_q": sequences.longest_q,
        "max_seqlen_k": sequences.longest_k,
    }
