from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from attnbench.cli import app
from attnbench.kernels import engines
from attnbench.machine import doctor
from attnbench.machine.doctor import Finding, examine, gpu_finding
from attnbench.machine.load import Load
from attnbench.machine.telemetry import Reading


def named(findings: list[Finding], name: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.name == name)
    return finding


def raiser(error: Exception) -> Any:
    def fail(*arguments: object, **options: object) -> object:
        raise error

    return fail


def engine(name: str, reason: str | None) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, summary="a fake engine", available=lambda: reason, version=lambda: "1.2", load=lambda: None
    )


def test_this_machine(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    assert {finding.group for finding in findings} == {"device", "flags", "engine", "codec", "extra", "tool", "disk"}
    assert named(findings, "CPU").usable
    assert named(findings, "reference").usable
    assert named(findings, "h264").usable
    assert named(findings, "results").usable
    assert {finding.name for finding in findings if finding.group == "engine"} == set(engines.ENGINES)
    # whatever cannot be used says why
    assert [finding for finding in findings if not finding.usable and not finding.detail] == []


def test_a_file_is_no_place_for_results(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        finding = named(examine(place), "results")
        assert (finding.usable, finding.remedy) == (False, "choose another folder with --out")
        assert f"{tmp_path / 'file'} is not a folder" in finding.detail


def test_engines_say_what_they_lack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fakes = {"good": engine("good", None), "absent": engine("absent", "needs a GPU; pip install something")}
    monkeypatch.setattr(engines, "ENGINES", fakes)
    findings = examine(tmp_path)
    good, absent = named(findings, "good"), named(findings, "absent")
    assert (good.usable, good.detail, good.remedy) == (True, "a fake engine (1.2)", "")
    assert (absent.usable, absent.remedy) == (False, "needs a GPU; pip install something")


def test_a_broken_engine_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = SimpleNamespace(
        name="broken", summary="s", available=raiser(OSError("bad library")), version=str, load=str
    )
    monkeypatch.setattr(engines, "ENGINES", {"broken": broken, "good": engine("good", None)})
    findings = examine(tmp_path)
    assert not named(findings, "broken").usable
    assert "bad library" in named(findings, "broken").remedy
    assert named(findings, "good").usable


def test_a_probe_that_fails_unforeseen_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_cuda", raiser(RuntimeError("driver on fire")))
    finding = named(examine(tmp_path), "CUDA")
    assert not finding.usable
    assert "RuntimeError: driver on fire" in finding.detail


def test_a_missing_codec_comes_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import av

    def codec(name: str, mode: str) -> object:
        if mode == "w":
            raise ValueError(name)  # PyAV's error for a codec it does not know is one
        return object()

    monkeypatch.setattr(av, "Codec", codec)
    findings = examine(tmp_path)
    assert named(findings, "h264").usable
    assert not named(findings, "libx264").usable
    assert named(findings, "libx264").remedy.startswith("pip install")


@pytest.mark.parametrize(
    ("name", "extra"), [("flash-attn-4", "flash"), ("diffusers", "models"), ("transformers", "models")]
)
def test_a_missing_extra_comes_with_the_command(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "package_version", lambda distribution: None)
    finding = named(examine(tmp_path), name)
    assert (finding.usable, finding.remedy) == (False, f"pip install 'attnbench[{extra}]'")


def test_an_extra_that_does_not_import_is_not_usable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "package_version", lambda distribution: "9.9")
    monkeypatch.setitem(sys.modules, "transformers", None)
    finding = named(examine(tmp_path), "transformers")
    assert not finding.usable
    assert "9.9 is installed, but transformers does not import" in finding.detail


def test_gpus_are_listed_with_their_compute_capability(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    properties = SimpleNamespace(name="A GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    findings = examine(tmp_path)
    for name in ("cuda:0", "cuda:1"):
        assert named(findings, name).detail == "A GPU, compute capability 9.0, 80 GiB, CUDA 13.0"


def test_no_gpu_says_what_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in named(examine(tmp_path), "CUDA").detail
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "NVIDIA" in named(examine(tmp_path), "CUDA").remedy


def test_cpu_flags_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "cpu_info", lambda: {"flags": "fpu avx512f amx_bf16"})
    findings = examine(tmp_path)
    flags = ("AVX-512", "AVX-512 bf16", "AMX bf16")
    assert [named(findings, name).usable for name in flags] == [True, False, True]


def test_nvml_reads_clocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = SimpleNamespace(
        NVMLError=RuntimeError,
        NVML_CLOCK_SM=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetClockInfo=lambda handle, clock: 1980,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    assert named(examine(tmp_path), "NVML").detail == "driver 570.1, SM clock 1980 MHz"
    fake.nvmlDeviceGetClockInfo = raiser(RuntimeError("Not Supported"))
    assert (named(examine(tmp_path), "NVML").usable, named(examine(tmp_path), "NVML").detail) == (
        False,
        "Not Supported",
    )


def test_browser_is_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = named(examine(tmp_path), "browser")
    assert (missing.usable, "apt-get install chromium" in missing.remedy) == (False, True)
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    assert named(examine(tmp_path), "browser").detail == str(browser)


def test_disk_of_a_folder_that_is_yet_to_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(path)
        return SimpleNamespace(free=2**29)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    finding = named(examine(tmp_path / "not" / "yet"), "results")
    assert asked == [tmp_path]
    assert not finding.usable
    assert finding.detail.startswith("0.5 GiB free")


def test_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "--out" in named(examine(tmp_path), "results").remedy


def test_command_prints_a_table_and_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = [
        Finding("device", "CPU", True, "fast"),
        Finding("extra", "x", False, "none", "pip install 'attnbench[x]'"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda results: findings)
    shown = CliRunner().invoke(app, ["doctor", "--out", str(tmp_path)])
    assert shown.exit_code == 0
    assert "pip install 'attnbench[x]'" in shown.stdout
    printed = CliRunner().invoke(app, ["doctor", "--json"])
    assert printed.exit_code == 0
    assert json.loads(printed.stdout)["findings"] == [finding.to_dict() for finding in findings]


@pytest.mark.parametrize(("others", "usable"), [(0.1, True), (0.4, False), (None, False)])
def test_a_machine_that_would_raise_a_flag_now_is_told(
    others: float | None, usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "WINDOW", 0)
    monkeypatch.setattr(doctor, "LoadWatch", lambda: SimpleNamespace(look=lambda: Load(others_busy=others)))
    (found,) = doctor._load()
    assert (found.name, found.usable) == ("busy-machine", usable)
    assert ("flag busy-machine now" in found.remedy) == (others == 0.4)


def test_a_gpu_says_its_power_limit_and_what_else_computes_on_it() -> None:
    alone = Reading(1980, 120.4, 41, 0, 700, 0)
    assert gpu_finding("cuda:0", alone).detail == "uses 120 W of at most 700 W, 41 °C; nothing else computes on it"
    shared = gpu_finding("cuda:0", replace(alone, foreign_processes=2))
    assert not shared.usable
    assert shared.detail.endswith("other processes on it: 2")
    assert "flag busy-machine" in shared.remedy
    unknown = gpu_finding("cuda:0", replace(alone, power_limit_w=None, foreign_processes=None))
    assert unknown.usable
    assert unknown.detail == "uses 120 W, 41 °C; what others compute on it is not told"
    assert not gpu_finding("cuda:0", None).usable


@pytest.mark.parametrize(("names", "usable"), [((), True), (("performance",), True), (("powersave",), False)])
def test_a_governor_that_saves_power_is_told(
    names: tuple[str, ...], usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "governors", lambda: names)
    (found,) = doctor._governor()
    assert found.usable == usable
