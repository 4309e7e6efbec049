"""The script inside the environment, and what the doctor makes of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from attnbench.clips.vbench.checks import examine
from attnbench.clips.vbench.dimensions import DIMENSIONS
from attnbench.clips.vbench.environment import ask_imports


def check(fake: Any, scratch: Path) -> dict[str, Any]:
    scratch.mkdir()
    return ask_imports(fake.environment.python, list(DIMENSIONS), scratch)


def test_a_torchvision_without_its_library_is_imported_all_the_same(fake: Any, tmp_path: Path) -> None:
    answer = check(fake, tmp_path / "scratch")
    assert answer["error"] is None
    assert answer["versions"]["torchvision operators"] == "absent"


def test_a_whole_torchvision_is_left_alone(fake: Any, tmp_path: Path) -> None:
    fake.monkeypatch.setenv("FAKE_VBENCH", '{"torchvision works": true}')
    assert check(fake, tmp_path / "scratch")["versions"]["torchvision operators"] == "native"


def test_one_dimension_that_does_not_import_leaves_the_others(fake: Any, tmp_path: Path) -> None:
    imports = check(fake, tmp_path / "scratch")["imports"]
    assert imports.pop("imaging_quality") == "ImportError: no pyiqa here"
    assert set(imports.values()) == {None}


@pytest.fixture
def findings(fake: Any, weights: Path) -> dict[str, Any]:
    (weights / "amt_model/amt-s.pth").unlink()
    (weights / "raft_model/models/raft-things.pth.stand-in").unlink()
    return {finding.name: finding for finding in examine(fake.folder, weights)}


def test_the_doctor_tells_imports_from_weights(findings: dict[str, Any], weights: Path) -> None:
    usable = {name for name in DIMENSIONS if findings[name].usable}
    assert usable == set(DIMENSIONS) - {"imaging_quality", "motion_smoothness"}
    assert "does not import: ImportError: no pyiqa here" in findings["imaging_quality"].detail
    missing = findings["amt_model/amt-s.pth"]
    assert (missing.usable, "about 12 MB: missing" in missing.detail) == (False, True)
    assert missing.remedy.endswith(f"resolve/main/amt-s.pth at {weights / 'amt_model/amt-s.pth'}")


def test_the_doctor_names_stand_ins(findings: dict[str, Any]) -> None:
    assert "stand-in, random numbers" in findings["ViCLIP/ViClip-InternVid-10M-FLT.pth"].detail
    assert "21 MB: present" in findings["raft_model/models/raft-things.pth"].detail


def test_the_doctor_without_an_environment_still_looks_for_weights(tmp_path: Path, weights: Path) -> None:
    environment, *others = examine(tmp_path / "nowhere", weights)
    assert (environment.usable, environment.remedy) == (False, "attnbench vbench setup")
    assert not any(finding.usable for finding in others if finding.group == "dimension")
    assert all(finding.usable for finding in others if finding.group == "weights")


def test_the_doctor_survives_a_python_that_says_nothing(fake: Any, weights: Path) -> None:
    fake.environment.python.write_text("#!/bin/sh\necho broken >&2; exit 3\n")
    environment, *_ = examine(fake.folder, weights)
    assert not environment.usable
    assert environment.detail.endswith("gave no answer but: broken")
