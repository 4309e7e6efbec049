"""Cells that are measured in processes of their own: what hangs, crashes or changes its process harms no other cell."""
