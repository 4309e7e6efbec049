"""Triton kernels. Importing a module of this package imports Triton, so the rest of attnbench does it only on use."""
