"""A method from a package of its own, installed as a user would install it, found by the command line and the API."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attnbench.methods.registry import BUILT_IN

PACKAGE = Path(__file__).resolve().parent.parent / "plugins" / "attnbench_checkerboard"
COMMAND_LINE = "from attnbench.cli import main; main()"
GRID, TEXT, BLOCK = (3, 5, 7), (2, 1), (2, 2, 3)
CALL = f"""
import sys, torch, attnbench
torch.set_num_threads(1)
where = dict(method="checkerboard", grid={GRID}, text={TEXT}, block={list(BLOCK)})
q, k, v = torch.load(sys.argv[1], weights_only=True)
plan = attnbench.select(q, k, **where)
torch.save((attnbench.attention(q, k, v, **where), plan.token_mask()), sys.argv[1])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed into; built from a copy, since a build leaves files behind."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip to install a package with")
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--root-user-action=ignore", "--target", folder / "site", source],
        check=True, timeout=300,
    )  # fmt: skip
    return folder / "site"


def run_python(code: str, *arguments: str, site: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=site.parent, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_the_command_line_lists_it_after_the_built_in_methods(installed: Path) -> None:
    answer = run_python(COMMAND_LINE, "ls", "methods", "--json", site=installed)
    assert answer.returncode == 0, answer.stderr
    rows = {row["name"]: row for row in json.loads(answer.stdout)}
    assert list(rows)[: len(BUILT_IN)] == list(BUILT_IN)
    assert rows["checkerboard"]["settings"] == "block=(2, 8, 8)"


def test_a_typing_error_is_answered_with_its_name(installed: Path) -> None:
    answer = run_python(CALL.replace('"checkerboard"', '"chekerboard"'), save(installed), site=installed)
    assert "unknown method 'chekerboard': did you mean 'checkerboard'?" in answer.stderr


def test_attention_runs_it(installed: Path) -> None:
    path = save(installed)
    answer = run_python(CALL, path, site=installed)
    assert answer.returncode == 0, answer.stderr
    output, mask = torch.load(path, weights_only=True)

    n = GRID[0] * GRID[1] * GRID[2]
    places = [(t, h, w) for t in range(GRID[0]) for h in range(GRID[1]) for w in range(GRID[2])]
    colour = [sum(x // size for x, size in zip(place, BLOCK, strict=True)) % 2 for place in places]
    expected = torch.ones(n + 3, n + 3, dtype=torch.bool)
    expected[2:-1, 2:-1] = torch.tensor([[one == other for other in colour] for one in colour])
    assert bool((mask == expected).all())
    q, k, v = (x.double() for x in make_qkv())
    exact = scaled_dot_product_attention(q, k, v, attn_mask=expected, enable_gqa=True)
    torch.testing.assert_close(output.double(), exact, atol=1e-5, rtol=0)


def make_qkv() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    n = GRID[0] * GRID[1] * GRID[2] + sum(TEXT)
    return [torch.randn(2, heads, n, 8, generator=random) for heads in (4, 2, 2)]


def save(folder: Path) -> str:
    path = folder.parent / "tensors.pt"
    torch.save(make_qkv(), path)
    return str(path)
