"""A prepared launch gives the driver the same arguments as Triton does, TMA descriptors among them.

No GPU is needed: the attention kernel for Hopper is compiled, and a driver in Triton's place notes what it gets.

python tests/gpu/test_prepared_launch.py

launches it three times and prints the number of arguments. The exit code is 1 if one of them differs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))


def launched() -> list[list[Any]]:
    """Launch the kernel three times, and return what the driver gets each time."""
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

    from attnbench.kernels.gpu import attend_hopper
    from attnbench.kernels.gpu.key_rows import key_rows
    from attnbench.kernels.gpu.work import Tiles

    attend_hopper.multiprocessors = lambda device: 132
    q, k, v, out = (torch.zeros(1, 2, 256, 128, dtype=torch.bfloat16).as_subclass(OnGpu) for _ in range(4))
    lists = [torch.zeros(size, dtype=torch.int32).as_subclass(OnGpu) for size in ((512,), (4, 8), (1,), (9, 2))]
    rows, lse = key_rows(k, v), torch.zeros(512)
    assert rows is not None
    for _ in range(3):
        attend_hopper.launch(q, rows, None, Tiles(*lists), 0.125, out.view(512, 128), lse, False)
        got[-1] = [x.data_ptr() if isinstance(x, torch.Tensor) else x for x in got[-1]]
    return got


def main() -> int:
    os.environ.pop("TRITON_INTERPRET", None)
    first, *others = launched()
    print(len(first))
    # The first launch is Triton's own, and has what hooks would be told and the hooks; there is none.
    wrong = [
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
    assert int(done.stdout.split()[0]) > 60


if __name__ == "__main__":
    sys.exit(main())
