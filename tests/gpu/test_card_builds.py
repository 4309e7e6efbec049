"""What the compiler makes of the Triton kernels for several cards: registers, spills, and shared memory within limits.

No GPU is needed: methods run on a CPU with a driver in Triton's place that compiles for a card and launches nothing, so
kernels are built with the arguments that their callers give them. The Gluon kernels are in ``test_hopper_build``.

python tests/gpu/test_card_builds.py CARD [METHOD [HEAD_DIM]]

prints a line for each build and says which do not fit the card. The exit code is 1 if there are any.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

KERNELS = Path(__file__).resolve().parents[2] / "kernels"

MOST_REGISTERS = 255
MOST_SPILLED = 1024
"""Bytes a thread. The kernels spill up to 752, with head_dim 72 and with element rules; with the 32 registers to which
ptxas may fall, they spill thousands.
"""


@dataclass(frozen=True)
class Card:
    """A kind of GPU.

    Attributes:
        capability: compute capability, 89 for 8.9.
        shared: bytes of shared memory that a thread block may ask for, by the table of compute capabilities in NVIDIA's
            CUDA C++ Programming Guide.
    """

    capability: int
    shared: int


CARDS = {
    "A100": Card(80, 163 * 1024),
    "RTX-4090": Card(89, 99 * 1024),
    "H100": Card(90, 227 * 1024),
    "B200": Card(100, 227 * 1024),
    "RTX-5090": Card(120, 99 * 1024),
}

GRID, TEXT = (6, 16, 16), (0, 3)
DIMS = (128, 64, 72)
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("sta", {"tile": (6, 8, 8), "window": (1, 1, 1)}),
    ("sta", {"tile": (2, 4, 4), "window": (1, 1, 3)}),
    ("sliding-window", {}),
    ("moba", {"blocks": 8, "topk": 2}),
    ("moba", {"blocks": 8, "topk": 2, "causal": True}),
    ("vmoba", {}),
    ("vmoba", {"scope": "query"}),
    ("vmoba", {"select": "topk"}),
    ("sparge", {}),
    ("xattention", {}),
    ("draft", {}),
    ("nabla", {}),
    ("longcat-bsa", {"mass": 0.5}),
    ("vsa", {}),
    ("subblock", {"round_to": 1}),
    ("sol-attn", {}),
    ("sol-attn", {"spread": "exact"}),
    ("bsa", {}),
    ("svg1", {}),
    ("rainfusion", {}),
    ("svg2", {"q_clusters": 12, "k_clusters": 20, "first_iterations": 2}),
)


class Driver:
    """Stands for Triton's driver: says that the card is there, and launches nothing."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.utils = self

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[int, int, int, int, int]:
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.card.shared, "multiprocessor_count": 100}

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.card.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: None


def watch_builds(card: Card) -> list[Any]:
    """Let Triton compile for a card and launch nothing; return a list to which each kernel is added that it builds."""
    from triton.compiler import compiler
    from triton.runtime import driver

    driver.set_active(Driver(card))
    compiler.max_shared_mem = lambda device: 2**31  # main() says what does not fit
    made: list[Any] = []
    load = compiler.CompiledKernel._init_handles

    def watched(kernel: Any) -> None:
        if kernel.module is None:
            made.append(kernel)
        load(kernel)

    compiler.CompiledKernel._init_handles = watched
    return made


def build(card: Card, methods: list[str], dims: tuple[int, ...]) -> Iterator[Any]:
    """Run the cases of these methods on a CPU, or all; yield each kernel that they build for the card, once."""
    import torch

    made = watch_builds(card)
    torch.cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=100)
    torch.empty = torch.zeros  # what kernels should have written is read by torch, as places and as counts

    from attnbench.kernels.gpu import attend, backward_keys, backward_queries, blocked, routed_backward, shared_memory
    from attnbench.kernels.grid import Grid, Layout
    from attnbench.kernels.selection_ops import interpreted

    shared_memory._most_shared_memory = lambda index: card.shared
    layout = Layout(Grid(*GRID), TEXT)
    large = shared_memory.takes_large_tiles(torch.device("cuda", 0))
    for module in (attend, backward_queries, backward_keys):
        module.takes_large_tiles = lambda device: large
    blocked._takers = routed_backward._takers = lambda *_: 132  # as for the Gluon kernels
    for dim in dims:
        for method, settings in CASES:
            if not methods or method in methods:
                with interpreted():
                    run(method, settings, layout, dim)
                yield from made
                made.clear()
    if not methods:
        run_what_no_case_runs()
        yield from made


def run(method: str, settings: dict[str, Any], layout: Any, dim: int) -> None:
    """Make a method's plans on tensors of zeros, attend forward and backward, and run the branch."""
    import torch

    from attnbench.kernels.attend_ops import attend_by_kernels
    from attnbench.methods import BranchCall, Call, get_method, make_settings

    chosen = get_method(method)
    values = chosen.resolve(make_settings(chosen, settings), layout)
    q, k, v = (torch.zeros(1, heads, layout.tokens, dim, dtype=torch.bfloat16) for heads in (4, 2, 2))
    for layer in chosen.distinct_layers(values, 3):
        plan = chosen.plan(values, q, k, Call(layout, layer, v=v if chosen.needs_v else None))
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        output, lse = attend_by_kernels(*leaves, plan, dim**-0.5)
        torch.autograd.grad(output.sum() + lse.sum(), leaves)
        if chosen.finish is not None:
            call = BranchCall(layout, layer, plan=plan, scale=dim**-0.5, lse=lse.detach())
            chosen.finish(values, call, q, k, v, output.detach())


def run_what_no_case_runs() -> None:
    """Pair small tiles, as on Hopper alone, cut scores whose extremes nobody has taken, and average many blocks."""
    import torch

    from attnbench.kernels.gpu.block_tiles import lay_out, tiles_of
    from attnbench.kernels.gpu.paired_tiles import pair_up
    from attnbench.kernels.gpu.selection.cut_heads import cut_top_k_head
    from attnbench.kernels.gpu.selection.pooling import pool_means
    from attnbench.kernels.grid import Grid, Layout
    from attnbench.kernels.plan import BlockPattern, Plan

    offsets = torch.arange(0, 64 * 9, 64)
    keep = torch.ones(1, 1, 8, 8, dtype=torch.bool)
    work = lay_out(Plan(Layout(Grid(512, 1, 1)), 1, 2, BlockPattern(offsets, offsets, keep)))
    pair_up(work, tiles_of(work))
    cut_top_k_head(torch.zeros(1, 2, 64, 8), torch.zeros(64, dtype=torch.int64), 2)
    for dim, dtype, size in itertools.product((64, 128, 256), (torch.bfloat16, torch.float32), (16, 64)):
        offsets = torch.arange(0, size * 4225, size)
        k = torch.zeros(dim, dtype=dtype).expand(1, 2, size * 4224, dim)
        for order in (None, offsets):
            pool_means(k, order, offsets)
            pool_means(k, order, offsets[[0, 100, -1]])


def resources(cubin: bytes) -> tuple[int, int]:
    """Return the registers of a thread and the bytes that it spills."""
    import triton

    tool = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", said)[1]) for name in ("REG", "STACK", "LOCAL"))  # type: ignore[index]  # it always says so
    return registers, stack + local


def judge(kernel: Any, card: Card, registers: int, spilled: int) -> bool:
    """Print what a build takes, and return whether it fits the card."""
    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
    fits = registers <= MOST_REGISTERS and spilled <= MOST_SPILLED and shared <= card.shared
    words = f"{registers} registers, {spilled} bytes spilled, {shared} of {card.shared} bytes shared, {warps} warps"
    print(f"{kernel.name}: {words}{'' if fits else ' DOES NOT FIT'}")
    return fits


def main(name: str, methods: list[str], dims: tuple[int, ...]) -> int:
    os.environ.pop("TRITON_INTERPRET", None)
    card, wrong = CARDS[name], 0
    for kernel in build(card, methods, dims):
        wrong += not judge(kernel, card, *resources(kernel.asm["cubin"]))
    return min(wrong, 1)


CORE = {"_attend_tiles", "_backward_queries", "_backward_keys", "_delta", "_list_line", "_record_tiles", "_record_keys"}
CORE |= {"_even_out", "_share_out"}
ROUTED = {"_score", "_means", "_pack", "_count", "_scatter", "_merge", "_sum_rows", "_list_places", "_cut_rows"}
BANDS = {"_classify_band", "_band_shares", "_attend_part"}


@pytest.mark.parametrize(
    ("words", "built"),
    [
        pytest.param(("RTX-4090", "sta", "128"), CORE, id="RTX-4090-sta"),
        *(pytest.param((name,), CORE | ROUTED | BANDS, id=name, marks=pytest.mark.slow) for name in CARDS),
    ],
)
def test_kernels_fit_the_card(words: tuple[str, ...], built: set[str]) -> None:
    # In a process of its own: here the kernels may have been imported for Triton's interpreter.
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert built <= {line.partition(":")[0] for line in done.stdout.splitlines()}


def launched_kernels() -> set[str]:
    """Return the names of the Triton kernels that are launched: as ``launch(kernel, …)`` or ``kernel[…](…)``."""
    found = set()
    for path in KERNELS.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        if "gluon.jit" not in source and path.name != "launch.py":
            for node in ast.walk(ast.parse(source)):
                match node:
                    case ast.Call(func=ast.Name("launch"), args=[ast.Name(name), *_]):
                        found.add(name)
                    case ast.Call(func=ast.Name("launch"), args=[ast.Call(func=ast.Attribute(ast.Name(name))), *_]):
                        found.add(name)
                    case ast.Call(func=ast.Subscript(ast.Name(name))):
                        found.add(name)
                    case _:
                        continue
    return found


@pytest.mark.slow
def test_every_kernel_is_built() -> None:
    done = subprocess.run([sys.executable, __file__, "A100"], capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert launched_kernels() == {line.partition(":")[0] for line in done.stdout.splitlines()}


def test_a_card_with_too_little_memory_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    # The lines of a build that does not fit, without building anything.
    metadata = SimpleNamespace(shared=200_000, num_warps=8)
    kernel = SimpleNamespace(name="_attend_tiles", asm={"cubin": b""}, metadata=metadata)
    for registers, spilled, shared, fits in [
        (255, 1024, 101_376, True), (32, 11_352, 90_112, False), (168, 0, 163_840, False), (168, 0, 90_112, True),
    ]:  # fmt: skip
        metadata.shared = shared
        assert judge(kernel, CARDS["RTX-4090"], registers, spilled) is fits
        assert ("DOES NOT FIT" in capsys.readouterr().out) is not fits


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    sys.exit(main(name, rest[:1], tuple(map(int, rest[1:])) or DIMS))
