"""CLIP ships its vocabulary."""
