"""Attention methods inside real models: swap the self-attention of a diffusers model, and time one step of it."""
