"""How threads wait for one another in commands that time nothing."""

from __future__ import annotations

import os
import sys


def spin_briefly() -> None:
    """Let OpenMP's threads spin for a short time only before they sleep; without effect once torch is loaded.

    Threads that spin for long, as by default, made clips up to four times slower on busy cores. Ones that sleep at once
    took twice as long for VMoBA on idle cores: 4.6 s a pass, and so 2.4.
    """
    if "torch" not in sys.modules:  # OpenMP reads it once, when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
