"""The script that analyses many prompts at once: which prompts, and the journal of their means."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import runpy
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from attnbench.analysis.request import read_request
from attnbench.kernels.errors import BadInput
from attnbench.mini.config import PRESETS
from attnbench.mini.model import MiniTransformer
from attnbench.mini.stored import save_mini
from attnbench.results.load import read
from attnbench.results.premises import premises

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "analyze_mini.py"))


def test_prompts_show_each_class_as_often_and_no_two_are_the_same(script: dict[str, Any]) -> None:
    prompts = script["prompts"](60)
    assert len(set(prompts)) == 60
    assert set(Counter(prompt.split()[0] for prompt in prompts).values()) == {4}
    directions = Counter(prompt.split()[-1] for prompt in prompts)
    assert len(directions) == 8
    assert max(directions.values()) - min(directions.values()) <= 1
    assert len(set(script["prompts"](120))) == 120


def test_the_journal_has_the_means_of_the_prompts(script: dict[str, Any], tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MiniTransformer(PRESETS["tiny"])
    save_mini(network, network.state_dict(), tmp_path / "tiny.safetensors")

    def request(prompts: list[str]) -> Any:
        return read_request(
            model="mini", weights=str(tmp_path / "tiny.safetensors"), prompts=prompts, layers=[0, 1], steps=[0, 1],
            methods=[{"method": "vmoba", "settings": {}}], device="cpu", seed=0,
        )  # fmt: skip

    prompts = script["prompts"](2)
    folders = {prompt: tmp_path / "run" / "prompts" / str(number) for number, prompt in enumerate(prompts)}
    for prompt, folder in folders.items():
        assert not script["done"](folder)
        assert script["one"](request([prompt]), folder, ["script"], 1, float("inf")) > 0
        assert script["done"](folder)
    assert script["one"](request(prompts[:1]), tmp_path / "late", ["script"], 1, 0.0) == 0
    packed = script["merge"](request(prompts), folders, tmp_path / "run", ["script"])

    found = read(packed)
    (header,) = found.headers
    assert header.environment.command == ["script"]
    assert header.environment.git_commit == read(folders[prompts[0]]).headers[0].environment.git_commit
    assert header.request["prompts"] == prompts
    assert {row.prompts for row in found.analysis if row.value is not None} == {2}
    assert len(found.premises) == len(premises())
    single = [read(folder).analysis for folder in folders.values()]
    for row in found.analysis:
        if row.measure not in ("entropy", "same_frame_mass", "mask_iou", "global_gain_3d") or row.value is None:
            continue
        place = (row.measure, row.layer, row.head, row.step, row.settings)
        values = [
            each.value for rows in single for each in rows
            if each.value is not None and (each.measure, each.layer, each.head, each.step, each.settings) == place
        ]  # fmt: skip
        assert len(values) == 2
        assert row.value == pytest.approx(fmean(values), rel=2e-6)
        assert (row.lo, row.hi) == (min(values), max(values))
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == gzip.decompress(packed.read_bytes())


@pytest.mark.parametrize(
    ("gpus", "device", "wanted"),
    [
        ({"0": "H200", "1": "H200"}, None, [0, 1, 0, 1, 0]),
        ({"3": "H200"}, "cuda", [0, 0, 0, 0, 0]),
        ({"0": "H200", "1": "H200"}, "cpu", []),
        ({}, None, []),
    ],
)
def test_processes_share_the_gpus(
    gpus: dict[str, str], device: str | None, wanted: list[int], script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(script["gpu_numbers"].__globals__, "gpus_here", lambda: gpus)
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    numbers = script["gpu_numbers"](5, device)
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    for number in numbers:
        queue.put(number)
    for _ in numbers:
        script["take_gpu"](queue)
    assert taken == wanted


def test_gpus_of_two_kinds_are_refused_before_anything_is_analysed(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(script["gpu_numbers"].__globals__, "gpus_here", lambda: {"0": "H200", "1": "A100"})
    with pytest.raises(BadInput, match="GPU 0 is H200, 1 is A100"):
        script["gpu_numbers"](2, None)


def test_what_was_begun_only_is_begun_again(script: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "0"
    folder.mkdir()
    header = (ROOT / "docs" / "analysis-run.jsonl.gz").read_bytes()
    (folder / "journal.jsonl").write_bytes(gzip.decompress(header).splitlines(keepends=True)[0])
    assert not script["done"](folder)
    assert not folder.exists()


def test_prompts_of_several_commits_are_not_averaged(script: dict[str, Any], tmp_path: Path) -> None:
    lines = gzip.decompress((ROOT / "docs" / "analysis-run.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    folders = {}
    for commit in ("a" * 40, "b" * 40):
        folders[commit] = tmp_path / commit
        folders[commit].mkdir()
        header = json.loads(lines[0])
        header["environment"]["git_commit"] = commit
        (folders[commit] / "journal.jsonl").write_text(json.dumps(header) + "\n" + "".join(lines[1:3]))
    request = read_request(model="mini", prompts=["3 moving east"], device="cpu", seed=0)
    with pytest.raises(BadInput, match="on several devices or commits: begin in another folder"):
        script["merge"](request, folders, tmp_path / "out", ["script"])
