"""A package of its own with one method of each kind, measured and checked by the command line as built-in ones are."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "plugins" / "attnbench_kinds"
KINDS = ("static", "selecting", "state", "branch")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip to install a package with")
    folder = tmp_path_factory.mktemp("kinds")
    source = shutil.copytree(PACKAGE, folder / "source")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--root-user-action=ignore", "--target", folder / "site", source],
        check=True, timeout=300,
    )  # fmt: skip
    return folder / "site"


def attnbench(*words: str, site: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", "from attnbench.cli import main; main()", *words],
        cwd=site.parent, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("where", ["--in-process", pytest.param("--isolate", marks=pytest.mark.slow)])
def test_each_kind_is_verified_and_timed(where: str, site: Path) -> None:
    methods = [word for kind in KINDS for word in ("--method", f"kind-{kind}:block=16")]
    answer = attnbench(
        "run", *methods, "--grid", "3x5x7", "--heads", "1", "--head-dim", "16", "--device", "cpu", "--inputs",
        "gaussian", "--rounds", "1", "--stability-calls", "2", where, "--out", where[2:], "--json", site=site,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    rows = {row["method"]: row for row in json.loads(answer.stdout)["rows"]}
    assert {name: row["verdict"] for name, row in rows.items()} == {f"kind-{kind}": "ok" for kind in KINDS}
    assert rows["kind-selecting"]["flops_selection"] > 0
    assert rows["kind-static"]["flops_selection"] == 0
    assert rows["kind-branch"]["flops_branch"] > 0
    state = rows["kind-state"]
    assert (state["step"], state["refresh_every"]) == (1, 50)
    assert state["refresh_ms"] > 0
    assert state["latency_amortised_ms"] == pytest.approx((49 * state["latency_ms"] + state["refresh_ms"]) / 50)
