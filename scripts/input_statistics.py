"""Print how video inputs differ from Gaussian ones; with --write, also into docs/inputs.md.

python scripts/input_statistics.py --write
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

import torch

import attnbench
from attnbench.inputs.make import make_inputs
from attnbench.inputs.shapes import RESOLUTIONS, Shape, resolve_shape
from attnbench.inputs.structure import locality, union_density

KINDS = ("1-D", "2-D", "3-D")
TITLES = ("locality", *(f"density {kind}" for kind in KINDS), *(f"union {kind}" for kind in KINDS))
DOCUMENT = Path(__file__).parent.parent / "docs" / "inputs.md"
BEGIN = "<!-- begin: written by scripts/input_statistics.py --write -->"
END = "<!-- end -->"


def measure(spec: str, shape: Shape, heads: int, seed: int) -> list[tuple[float, ...]]:
    """Return, for each head, the numbers named by TITLES."""
    inputs = make_inputs(spec, shape, heads=heads, dtype=torch.float32, device=torch.device("cpu"), seed=seed)
    rows = []
    for head in range(heads):
        q, k = inputs.q[:, head : head + 1], inputs.k[:, head : head + 1]
        plans = [attnbench.select(q, k, method="vmoba", grid=shape.grid, layer=layer) for layer in range(len(KINDS))]
        densities = [plan.density for plan in plans]
        unions = [union_density(plan) for plan in plans]
        rows.append((locality(q[0, 0], k[0, 0], shape.grid), *densities, *unions))
    return rows


def table(rows: dict[str, list[tuple[float, ...]]]) -> str:
    """Return a Markdown table: each head of the first inputs, and lowest, mean and highest head of all."""
    lines = ["| inputs | head | " + " | ".join(TITLES) + " |", "|---|---|" + "--:|" * len(TITLES)]

    def add(name: str, head: str, numbers: list[float]) -> None:
        lines.append(f"| {name} | {head} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")

    for name, by_head in rows.items():
        if name == next(iter(rows)):
            for head, numbers in enumerate(by_head):
                add(name, str(head), list(numbers))
        for title, summary in (("lowest", min), ("**mean**", mean), ("highest", max)):
            add(name, title, [float(summary(column)) for column in zip(*by_head, strict=True)])
    return "\n".join(lines)


def write(block: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--res", choices=sorted(RESOLUTIONS), default="576p")
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="update the table in docs/inputs.md")
    options = parser.parse_args()
    shape = resolve_shape(res=options.res, heads=options.heads)
    rows = {spec: measure(spec, shape, options.heads, options.seed) for spec in ("video", "gaussian")}
    block = (
        f"{options.res}, grid {shape.grid}, {shape.tokens:,} tokens, {options.heads} heads of {shape.head_dim}, "
        f"seed {options.seed}, VMoBA at its defaults.\n\n{table(rows)}"
    )
    print(block)
    if options.write:
        write(block)


if __name__ == "__main__":
    main()
