"""A prepared launch gives the driver the same arguments as Triton does, TMA descriptors among them.

No GPU is needed: the kernels for Hopper are compiled, and a driver in Triton's place notes what it gets.

python tests/gpu/test_prepared_launch.py

launches each three times and prints the number of arguments. The exit code is 1 if one of them differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def launched() -> list[list[list[Any]]]:
    """Launch each kernel three times, and return what the driver gets each time."""
    import test_card_builds
    import torch
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime import driver

    got: list[list[Any]] = []

    class Driver(test_card_builds.Driver):
        def fill_tma_descriptor(self, *described: Any) -> tuple[Any, ...]:
            return tuple(tuple(x) if isinstance(x, (list, tuple)) else x for x in described)

        def launcher_cls(self, source: Any, metadata: Any) -> Any:
            # Triton's own launcher, without the part that is compiled by a C compiler.
            launcher = nvidia.CudaLauncher.__new__(nvidia.CudaLauncher)
            described = getattr(metadata, "tensordesc_meta", None)
            launcher.launch = nvidia.wrap_handle_tensordesc(
                lambda *arguments: got.append(list(arguments)), dict(enumerate(source.signature.values())), described
            )
            launcher.num_ctas = 1
            names = ("global_scratch_size", "global_scratch_align", "profile_scratch_size", "profile_scratch_align")
            for name in (*names, "launch_cooperative_grid", "launch_pdl"):
                setattr(launcher, name, getattr(metadata, name))
            return launcher

    class OnGpu(torch.Tensor):
        is_cuda = property(lambda _: True)

        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                return function(*args, **(kwargs or {}))

    driver.set_active(Driver(test_card_builds.CARDS["H100"]))
    torch.cuda.current_device = lambda: 0
    torch._C._cuda_getCurrentRawStream = lambda device: 0

    from attnbench.kernels.gpu import attend_hopper, backward_keys_hopper, backward_queries_hopper
    from attnbench.kernels.gpu.key_rows import key_rows
    from attnbench.kernels.gpu.selection import strided_hopper
    from attnbench.kernels.gpu.work import KeyTiles, Tiles

    for module in (attend_hopper, backward_keys_hopper, backward_queries_hopper, strided_hopper):
        module.multiprocessors = lambda device: 132

    def zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype).as_subclass(OnGpu)

    q, k, v, out, dk, dv = (zeros(1, 2, 256, 128) for _ in range(6))
    queries, records, count, segments = (zeros(*size, dtype=torch.int32) for size in ((512,), (4, 8), (1,), (9, 2)))
    lse, delta, order = torch.zeros(1, 2, 256), torch.zeros(1, 2, 256), zeros(256, dtype=torch.int64)
    tiles, key_tiles = Tiles(queries, records, count, segments), KeyTiles(queries, records.view(2, 2, 8), segments)
    rows, places = key_rows(k, v), zeros(512, 128)
    assert rows is not None
    groups, more_groups, sums = zeros(64, 1024), zeros(64, 1024), zeros(2, 32, 4, dtype=torch.float32)
    kernels = (
        lambda: attend_hopper.launch(q, rows, None, tiles, 0.125, places, lse, False),
        lambda: backward_queries_hopper.launch(q, k, v, out, lse, delta, tiles, 0.125, places, False),
        lambda: backward_keys_hopper.launch(q, k, v, out, lse, delta, key_tiles, 0.125, order, dk, dv),
        lambda: backward_keys_hopper.launch(q, k, v, out, lse, delta, key_tiles, 0.125, None, dk, dv),
        lambda: strided_hopper.score_groups(
            groups, more_groups, (64, 32, 0, 128, 64, 32, 0, 128, 2, 1), sums, 8, 8, 128, 0.01
        ),
    )
    launches = []
    for kernel in kernels:
        got.clear()
        for _ in range(3):
            kernel()
        launches.append([[x.data_ptr() if isinstance(x, torch.Tensor) else x for x in given] for given in got])
    return launches


def main() -> int:
    os.environ.pop("TRITON_INTERPRET", None)
    wrong = []
    for first, *others in launched():
        print(len(first))
        # The first launch is Triton's own, and has what hooks would be told and the hooks; there is none.
        wrong += [
            (i, a, b)
            for other in others
            for i, (a, b) in enumerate(zip(first, other, strict=True))
            if a != b and not (b is None and type(a).__name__ in ("LazyDict", "HookChain"))
        ]
    print(*wrong, sep="\n")
    return int(bool(wrong))


def test_prepared_launches_give_the_driver_what_triton_gives_it() -> None:
    # In a process of its own: here the kernels may have been imported for Triton's interpreter.
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert min(map(int, done.stdout.split())) > 40


if __name__ == "__main__":
    sys.exit(main())
