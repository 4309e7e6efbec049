"""Beyond one GPU and one machine: sweeps on existing engines, and rows of attention over several ranks."""
