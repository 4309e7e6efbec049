"""Attention over gloo ranks: what it gives, exchanges and computes against one process, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch.distributed as dist

FLEET = Path(__file__).with_name("fleet.py")
Found = list[dict[str, Any]]

if not dist.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tests_fleet", FLEET)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


fleet = load()


def sail(folder: Path, *words: str) -> Found:
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(FLEET), str(folder), *words], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(fleet.RANKS)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return sail(tmp_path_factory.mktemp("fleet"))


def check_case(case: Any, found: Found) -> None:
    reports = [each[case.name] for each in found[: len(case.shards)]]
    for report in reports:
        assert report["errors"]
        assert max(report["errors"].values()) < 1e-13, report["errors"]
    check_pairs(case, reports)
    for rank, report in enumerate(reports):
        check_bytes(case, rank, reports, report)


def check_pairs(case: Any, reports: list[dict[str, Any]]) -> None:
    """Together the ranks compute every kept pair once, and each one only its queries, or only its heads."""
    assert sum(report["pairs"] for report in reports) == reports[0]["all_pairs"]
    if case.parallel == "allgather":
        assert [report["pairs"] for report in reports] == [report["pairs_of_rows"] for report in reports]
    elif case.parallel in (None, "ulysses"):
        shares = [report["heads"] for report in reports]
        assert sum(shares) == case.heads
        assert max(shares) <= -(-case.kv_heads // len(shares)) * (case.heads // case.kv_heads) or case.kv_heads < len(
            shares
        )


def check_bytes(case: Any, rank: int, reports: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """A rank sends and receives no more than the issue of the work asks for, and what ranks tell each other once."""
    if case.parallel == "ulysses+allgather" or get_cycle(case):
        return
    n, own, ranks, heads = sum(case.shards), case.shards[rank], len(case.shards), report["heads"]
    others, number, told = n - own, 8 * case.batch, 4000
    kv_heads = sum(-(-each["heads"] * case.kv_heads // case.heads) for each in reports)  # in all, repeated ones too
    mine = -(-heads * case.kv_heads // case.heads)
    if case.parallel == "allgather":
        whole = case.settings.get("scope", "head") == "head" and case.method == "vmoba"
        scores = report["blocks"] * 9 * case.batch * case.heads * n if whole else 0  # a number and its verdict
        bound = {
            "sent": number * 2 * case.kv_heads * 16 * own * (ranks - 1) + scores,
            "received": number * 2 * case.kv_heads * 16 * others + scores,
        }
    else:
        lse = number if report["lse"] else 0
        output = (number * 16 + lse) * others * heads, (number * 16 + lse) * own * (case.heads - heads)
        bound = {
            "sent": number * 16 * own * (case.heads - heads + 2 * (kv_heads - mine)) + output[0],
            "received": number * 16 * others * (heads + 2 * mine) + output[1],
        }
    for side, other in (("sent", "received"), ("received", "sent")):
        assert report["forward"][side] <= bound[side] + told
        if report["backward"] is not None:
            assert report["backward"][other] <= bound[side]
            assert report["backward"][side] > 0


def get_cycle(case: Any) -> bool:
    from attnbench.methods import get_method

    return get_method(case.method).cycle is not None


@pytest.mark.parametrize("case", fleet.QUICK, ids=lambda case: case.name)
def test_ranks_give_what_one_process_gives(case: Any, found: Found) -> None:
    check_case(case, found)


@pytest.mark.slow
def test_every_method_and_way_gives_what_one_process_gives(tmp_path: Path) -> None:
    reports = sail(tmp_path, "all")
    for case in fleet.slow():
        check_case(case, reports)


DIFFER = "all ranks of a group must make the same call with the same versions"
SAME = {
    "heads": "2 ranks are more than the heads (1), which ulysses shares out",
    "tokens": "the shards have 30 + 30 = 60 tokens, but grid and text make 72",
    "more ranks than tokens": "2 ranks are more than the tokens (1)",
    "way": "unknown way of parallel 'ulises': did you mean 'ulysses'?",
    "no name": "parallel is 3; it must be a name such as 'ulysses', or a Balance",
    "method": "method 'sparge' does not say how its selection is gathered",
    "branch": "method 'vsa' does not say how its selection is gathered",
    "settings": "topk=2, causal=False)' on rank 0 and 'MoBA(blocks=None, block_size=1, topk=3",
    "layers": f"layer is 0 on rank 0 and 1 on rank 1; {DIFFER}",
    "dtype": "dtype is 'torch.float32' on rank 0 and 'torch.float64' on rank 1",
    "known layers": "layer is 0 on rank 0 and 1 on rank 1",
    "known and new": "threshold=0.25",
    "version": "on rank 1; all ranks of a group must make the same call with the same versions",
    "alone": "parallel is 'ulysses' without a group",
    "no group": "group is 'world'; it must be a torch.distributed.ProcessGroup",
}


@pytest.mark.parametrize("name", SAME)
def test_both_ranks_say_what_cannot_be(name: str, found: Found) -> None:
    for report in found[:2]:
        kind, _, words = report["refusals"][name].partition(": ")
        assert SAME[name] in words
        assert kind == ("Unsupported" if name in ("method", "branch") else "BadInput")


def test_a_rank_that_refuses_its_call_says_so_to_the_other(found: Found) -> None:
    words = "topk is 'few'; it must be a whole number of at least 1"
    assert found[0]["refusals"]["one refuses"] == f"BadInput: {words}"
    assert found[1]["refusals"]["one refuses"] == f"BadInput: rank 0 refused its call: {words}"


def test_a_refused_call_is_told_to_ranks_that_made_theirs_before(found: Found) -> None:
    own, other = found[1]["refusals"]["known and refused"], found[0]["refusals"]["known and refused"]
    assert own.startswith("BadInput: threshold is 'half'")
    assert other == f"BadInput: rank 1 refused its call: {own.removeprefix('BadInput: ')}"


def test_refusals_leave_the_group_in_order(found: Found) -> None:
    for name in ("fine", "layer 0", "layer 1", "fine again"):
        assert [report["refusals"][name] for report in found[:2]] == ["nothing"] * 2, name


def test_shards_keep_their_lengths(found: Found) -> None:
    for rank, report in enumerate(found[:2]):
        said = f"BadInput: rank {rank} has {29 + 2 * rank} tokens, and had 30 in the same call before"
        assert report["refusals"]["other lengths"].startswith(said)
    words = "rank 1 has 31 tokens, and had 30 in the same call before: shards of a group keep their lengths"
    assert found[1]["refusals"]["other lengths of one"] == f"BadInput: {words}"
    assert found[0]["refusals"]["other lengths of one"] == f"BadInput: rank 1 refused its call: {words}"


def test_heads_are_dealt_by_what_they_kept_last(found: Found) -> None:
    reports = [report["balanced"] for report in found[:3]]
    by_head = reports[0]["by_head"]
    in_order = [by_head[0] + by_head[1], by_head[2] + by_head[3], by_head[4] + by_head[5]]
    # The densest head alone, the next one alone, and the four thin ones together.
    dense = sorted(by_head)
    best = [dense[5], dense[4], sum(dense[:4])]
    for rank, report in enumerate(reports):
        assert max(report["errors"]) < 1e-13
        assert report["pairs"][0] == in_order[rank]
        assert sorted(each["pairs"][1] for each in reports) == sorted(best)
        assert report["pairs"][2] == report["pairs"][1], "a plan that is known before deals as the last step does"
        assert report["gains"] == pytest.approx([1.0, max(in_order) / max(best), max(in_order) / max(best)])


def test_values_are_on_the_way_while_a_method_selects_by_queries_and_keys(found: Found) -> None:
    for report in found[:2]:
        seen = report["overlapped"]
        handshake = seen["vmoba in all"][0] - 3
        assert seen["vmoba"] == [handshake + 2, handshake + 1], (
            "q and k have come, v was sent, and nobody waited for it"
        )
        assert seen["sta in all"] == [handshake + 2] * 2, "one exchange for q, k and v, and one for the output"
        assert seen["sta"] == [handshake + 1] * 2
        assert seen["vmoba in all"] == [handshake + 3] * 2
        assert seen["full in all"] == handshake + 2, "it selects nothing"


def test_an_exchange_that_was_begun_does_not_wait_for_a_late_rank(found: Found) -> None:
    for rank, report in enumerate(found[:2]):
        seen = report["overlapped"]
        assert seen["pieces"] == [[0.0] * 3, [1.0] * 3 if rank == 0 else [10.0] * 3]
        # Rank 0 gets the first piece of each rank, and rank 1 the second, which is ten times as large. Both weigh
        # that of rank 0 twice and that of rank 1 three times.
        assert seen["gradient"] == [(2.0 if rank == 0 else 3.0) * 11] * 3
    late = found[0]["overlapped"]
    assert late["begun"] < 0.3 < late["arrived"]


def test_ranks_end_with_a_sentence_when_one_dies(found: Found) -> None:
    for rank, report in enumerate(found[:3]):
        assert report["death"].startswith(f"RankLost: rank {rank} of 4 waits for others in vain: a rank ended")
