"""Floating-point operations in closed form: of a cell, of a Wan forward pass, and in the tables of a paper."""

from attnbench.cost.flops.counts import Counts, attention_counts, counts_of
from attnbench.cost.flops.wan import WAN_MODELS, ForwardFlops, WanConfig, forward_flops
from attnbench.kernels.flop_formulas import flops_per_pair

__all__ = [
    "WAN_MODELS",
    "Counts",
    "ForwardFlops",
    "WanConfig",
    "attention_counts",
    "counts_of",
    "flops_per_pair",
    "forward_flops",
]
