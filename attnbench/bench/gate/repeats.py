"""How many pairs of runs a gate measures by default."""

from __future__ import annotations

LEAST = 2
"""With a single pair, nothing but an assumption tells what pairs differ by."""

MOST = 8
