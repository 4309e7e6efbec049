"""Made-up tables of sweeps, with a known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd

TOKENS = (2000, 4000, 8000, 16000, 32000)


def make_power_law(
    *,
    at: float = 9000.0,
    power: float = 0.4,
    noise: float = 0.0,
    samples: int = 8,
    layers: int = 1,
    tokens: tuple[int, ...] = TOKENS,
    seed: int = 0,
    method: str = "sta",
    eager_at: float | None = None,
) -> pd.DataFrame:
    """Return a run for each of ``tokens``, in which the true speed-up is (tokens / at) ** power.

    With ``eager_at``, that by wall clock is (tokens / eager_at) ** power.
    """
    generator = np.random.default_rng(seed)

    def noisy(ms: float) -> list[float]:
        return [float(ms * np.exp(generator.normal(0, noise))) for _ in range(samples)]

    rows = []
    for place, count in enumerate(tokens):
        dense = noisy((count / 1000) ** 2)
        for layer in range(layers):
            rows.append(
                {
                    "method": method, "run_id": f"run{place}", "layer": layer, "verdict": "ok", "reason": "",
                    "tokens": count, "grid": f"{count // 1000}x20x50", "density": 0.25,
                    "engine": "reference", "samples_ms": noisy((count / 1000) ** 2 * (count / at) ** -power),
                    "baseline": "full/sdpa", "baseline_ms": float(np.median(dense)), "baseline_samples_ms": dense,
                    "heads_timed": 1, "device": "Test CPU", "dtype": "float32",
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    if eager_at is not None:
        table["baseline_eager_ms"] = 1.5 * table["baseline_ms"]
        table["latency_eager_ms"] = table["baseline_eager_ms"] * (table["tokens"] / eager_at) ** -power
        table["timer"] = "events"
    return table
