"""A small video diffusion transformer with its data, training and scores: real clips without a download."""
