"""A rank that hangs, but is alive, ends the others with a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from attnbench.kernels.errors import RankLost
from attnbench.scale import ranks

if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

HANGING = Path(__file__).with_name("hanging.py")

Said = dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    folder = tmp_path_factory.mktemp("hanging")
    ended = subprocess.run([sys.executable, str(HANGING), str(folder)], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    found: Said = json.loads((folder / "said.json").read_text())
    return found


def test_a_rank_that_was_stopped_ends_the_one_that_waits_for_it(said: Said) -> None:
    code, text = said["stops"]
    assert code == ranks.HUNG
    assert "attnbench: rank 1 of 2 has not been heard of for 1 s: it was stopped, or hangs" in text


def test_a_rank_that_takes_longer_than_a_cell_may_ends_itself(said: Said) -> None:
    code, text = said["loops"]
    assert code == ranks.HUNG
    assert "rank 0 of 2 has taken more than 0.5 s for one piece of work, as --cell-timeout allows its cells" in text


def test_a_rank_that_is_done_earlier_is_not_missed(said: Said) -> None:
    assert tuple(said["leaves"]) == (0, "done\n")


def test_the_one_that_started_the_ranks_ends_the_hung_one_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"import os, sys, time; sys.exit({ranks.HUNG}) if os.environ['RANK'] == '0' else time.sleep(60)"
    monkeypatch.setattr(ranks, "_PROGRAM", program)
    monkeypatch.setattr(ranks, "_AT_ONCE", 0.2)
    with pytest.raises(RankLost, match="rank 0 of 2 ended because a rank hangs, as it says above"):
        ranks.start(2, ["run"])
