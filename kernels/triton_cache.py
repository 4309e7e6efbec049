"""Where Triton keeps the kernels that it compiled."""

from __future__ import annotations

import os


def keep_cache() -> None:
    """Let the cache stay where it is for as long as this process lives.

    The first function that TorchInductor compiles moves it to a folder of its own, one for each device. What is
    compiled from then on is not found by processes that look before they come that far, and the other way round.
    """
    import triton

    os.environ.setdefault("TRITON_CACHE_DIR", triton.knobs.cache.dir)
