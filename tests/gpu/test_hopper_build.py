"""What ptxas makes of the Gluon kernels for Hopper: that products run ahead, and that loops spill nothing.

No test of results shows either. No GPU is needed.

python tests/gpu/test_hopper_build.py [NAME…]

prints the shared memory, the spilled bytes and ptxas's warnings of each kernel and variant, or of those named. The exit
code is 1 if ptxas serialises the products of a kernel ("Potential Performance Loss", C75xx), which then waits after
every instruction, or if a kernel spills more than the few registers around its loops.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SHARED_MEMORY = 232_448  # bytes that a thread block of an H100 can have
MOST_SPILLED = 128
"""Bytes a thread: what is spilled today is loaded once a tile, not in the loops."""

TYPES = {
    "lse": "*fp32", "delta": "*fp32", "token_of": "*i64", "order": "*i64", "scale": "fp32", "scale2": "fp32",
    **dict.fromkeys(("queries", "records", "tiles", "segments", "visible", "progress"), "*i32"),
    **dict.fromkeys(("words", "rows_of", "chunk_of"), "*i32"),
    **dict.fromkeys(("k", "v", "q", "d_output", "output", "result", "dk", "dv"), "*bf16"),
    **dict.fromkeys(("heads", "kv_heads", "kv_group", "n", "tokens", "total"), "i32"),
    **dict.fromkeys(("q_item", "q_of_head", "q_column", "q_pitch"), "i32"),
    **dict.fromkeys(("k_item", "k_of_head", "k_column", "k_pitch"), "i32"),
    **dict.fromkeys(("groups", "blocks", "across", "down"), "i32"), "sums": "*fp32",
    **dict.fromkeys(("row_batch", "row_head", "column_head", "all_heads", "places", "group", "chunks"), "i32"),
}  # fmt: skip
STRIDES = re.compile("(q|k|v|do|o|out)_(batch|head|token)|(token|order)_row")


def compile_for_hopper(kernel: Any, box: list[int], constants: dict[str, Any], half: str) -> Any:
    """Compile a kernel whose TMA descriptors have boxes of ``box`` = [rows, columns]; those of q have QUERIES rows.

    ``half`` is the type of q, k and v, "bf16" or "fp16".
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import compile as compile_kernel
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon._runtime import GluonASTSource

    def described(rows: int) -> str:
        sides = [rows, box[1]]
        return f"tensordesc<{half}{sides},{gl.NVMMASharedLayout.get_default_for(sides, gl.bfloat16)!r}>"

    types: dict[str, str] = {}
    for name in kernel.arg_names:
        if name in constants:
            types[name] = "constexpr"
        elif name in ("k_rows", "v_rows"):
            types[name] = described(box[0])
        elif name == "q_rows":
            types[name] = described(constants["QUERIES"])
        elif STRIDES.fullmatch(name):
            types[name] = "i64"
        else:
            types[name] = TYPES[name].replace("bf16", half)
    if types.get("tiles") and ("total" in kernel.arg_names or "sums" in kernel.arg_names):
        types["tiles"] = "i32"  # there a number of tiles
    aligned = [i for i, name in enumerate(kernel.arg_names) if types[name][0] == "*" or STRIDES.fullmatch(name)]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = GluonASTSource(kernel, types, constants, attributes)
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})


def assemble(ptx: str) -> str:
    """Return what ptxas prints about a kernel."""
    import triton

    ptxas = Path(triton.__path__[0]) / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [str(ptxas), "-v", "--gpu-name", "sm_90a", str(path), "-o", str(path.with_suffix(".cubin"))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def compile_and_assemble(kernel: Any, box: list[int], constants: dict[str, Any], half: str = "bf16") -> tuple[Any, str]:
    """Compile a kernel as ``compile_for_hopper``; return it, and what ptxas prints about it."""
    from triton import knobs

    with knobs.nvidia.scope(), contextlib.redirect_stdout(io.StringIO()) as log:
        knobs.nvidia.dump_ptxas_log = True
        compiled = compile_for_hopper(kernel, box, constants, half)
    # Triton runs ptxas only where it does not find the kernel in its cache.
    return compiled, log.getvalue() or assemble(compiled.asm["ptx"])


def masking(masked: int) -> str:
    """Return the end of a name: how a kernel knows what a rule keeps."""
    other = {0: "", 4: ", masked by what lies ahead", 5: ", masked by a band"}
    return other.get(masked, f", masked by {masked} axes")


def variants() -> list[tuple[str, Any, list[int], dict[str, Any]]]:
    """Return (name, kernel, box of a descriptor, constants) of every kernel in bfloat16, as callers combine them."""
    from attnbench.kernels.ablation import UP_TO
    from attnbench.kernels.gpu import attend_hopper, backward_keys_hopper, backward_queries_hopper
    from attnbench.kernels.gpu.selection import strided_hopper
    from attnbench.kernels.gpu.work import KEYS, PLACES, ROWS

    def common(module: ModuleType) -> dict[str, Any]:
        return {"KEYS": KEYS, "STAGES": module.STAGES, "REGISTERS": module.REGISTERS, "num_warps": 4}

    made = []
    for dim, flag in itertools.product((64, 128), (False, True)):
        where = f"head_dim {dim}, {'direct' if flag else 'partial'}"
        kinds = [(False, False, 0, "whole"), (False, False, 4, "whole")]
        if flag:  # partial results are of routes, which are not paired, and whose keys are arranged beforehand
            kinds += [(True, False, 0, "whole"), (False, True, 0, "whole"), (True, True, 0, "whole")]
            kinds += [(arrange, False, axes, "whole") for arrange in (False, True) for axes in (1, 2, 3)]
            kinds += [(False, False, 5, "whole")]
        if dim == 128 and flag:
            kinds += [(False, False, 0, "qk"), (True, False, 0, "softmax"), (False, True, 0, "softmax")]
            kinds += [(True, False, 3, "softmax")]
        for arrange, paired, masked, part in kinds:
            forward = {
                **common(attend_hopper), "ROWS": ROWS, "D": dim, "DIRECT": flag, "PAIRED": paired,
                "MASKED": masked, "ARRANGE": arrange, "UP_TO": UP_TO[part],
            }  # fmt: skip
            name = f"attend, {where}{', paired' if paired else ''}{', arranging' if arrange else ''}"
            name += masking(masked)
            name += "" if part == "whole" else f", up to {part}"
            made.append((name, attend_hopper.attend_tiles, [KEYS, dim], forward))
        step = backward_queries_hopper.STEP
        queries = {**common(backward_queries_hopper), "ROWS": ROWS, "STEP": step, "D": dim, "DIRECT": flag}
        for masked in (0, 2, 3, 4) if flag else (0, 4):
            name = f"backward queries, {where}{masking(masked)}"
            kernel = backward_queries_hopper._backward_queries
            made.append((name, kernel, [step, dim], {**queries, "MASKED": masked}))
        where = f"head_dim {dim}, {'ordered' if flag else 'in grid order'}"
        keys = {**common(backward_keys_hopper), "STEP": PLACES, "D": dim, "ORDERED": flag}
        for masked in (0, 2, 3) if flag else (0, 3, 4):
            name = f"backward keys, {where}{masking(masked)}"
            kernel = backward_keys_hopper._backward_keys
            made.append((name, kernel, [KEYS, dim], {**keys, "MASKED": masked}))
    sides = {name: getattr(strided_hopper, name) for name in ("PARTS", "QUERIES", "KEYS", "DEPTH")}
    for dim, each in ((64, 16), (128, 16), (192, 16), (256, 16), (128, 2), (128, 128)):
        scores = {**common(strided_hopper), **sides, "DIM": dim, "STRIDE": 8, "EACH": each}
        name = f"strided scores, head_dim {dim}, blocks of {each} groups"
        made.append((name, strided_hopper._score_tiles, [sides["KEYS"], sides["DEPTH"]], scores))
    return made


FULLEST = (
    "attend, head_dim 128, direct, paired, arranging",
    "backward queries, head_dim 128, direct",
    "backward keys, head_dim 128, ordered",
    "strided scores, head_dim 128, blocks of 16 groups",
)
"""Of each kernel a variant that holds most in registers. These are compiled for float16 too."""


@pytest.mark.parametrize(
    ("names", "count"), [(FULLEST, 4), pytest.param((), 66, marks=pytest.mark.slow)], ids=["fullest", "all"]
)
def test_no_product_is_serialised_and_no_loop_spills(names: tuple[str, ...], count: int) -> None:
    # In a process of its own: here the kernels may have been imported for Triton's interpreter.
    command = [sys.executable, __file__, *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bytes spilled") == count


def main(names: list[str]) -> int:
    os.environ.pop("TRITON_INTERPRET", None)
    wrong = False
    made = [(*variant, "bf16") for variant in variants()]
    made += [(f"{name}, float16", *rest, "fp16") for name, *rest, _ in made if name in FULLEST]
    for name, kernel, box, constants, half in made:
        if names and name not in names:
            continue
        compiled, said = compile_and_assemble(kernel, box, constants, half)
        spilled = sum(int(found) for found in re.findall(r"(\d+) bytes spill stores", said))
        losses = re.findall(r"\((C75\d\d)\) Potential Performance Loss: (.*?) in the function", said)
        losses += re.findall(r"\((C75\d\d)\) Potential Performance Loss: (.*?) for the function", said)
        wrong = wrong or bool(losses) or spilled > MOST_SPILLED or compiled.metadata.shared > SHARED_MEMORY
        print(f"{name}: {compiled.metadata.shared} bytes of shared memory, {spilled} bytes spilled", *losses)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
