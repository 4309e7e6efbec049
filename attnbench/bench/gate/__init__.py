"""Measure two versions of a project in turns, so that a gate can compare them."""
