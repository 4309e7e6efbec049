"""Kernels that choose the pairs to keep: pool, score, rank, cut."""
