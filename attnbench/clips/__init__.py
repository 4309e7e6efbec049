"""Clips: full attention and each method from the same prompt and seed, two noise floors, and what became of them."""
