"""Which clips follow from a request, and what is refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from attnbench.clips.request import ClipsRequest, read_request, seed_pairs, shots_of
from attnbench.kernels.errors import BadInput


def asked(**changes: Any) -> ClipsRequest:
    return read_request(**{"methods": {"vmoba": {}, "sta": {}}, **changes})


def test_every_seed_has_full_attention_first_then_its_floor_and_the_methods() -> None:
    shots = list(shots_of(asked(seeds=2, seed=5), "p", "sdpa", "reference"))
    one = [("exact", "full", "sdpa"), ("kernel-floor", "full", "reference")]
    one += [("method", "vmoba", "auto"), ("method", "sta", "auto")]
    assert [(shot.role, shot.method, shot.engine) for shot in shots] == one * 2
    assert [shot.seed for shot in shots] == [5] * 4 + [6] * 4


def test_without_a_second_kernel_there_is_no_floor() -> None:
    assert {shot.role for shot in shots_of(asked(), "p", "sdpa", None)} == {"exact", "method"}


def test_one_seed_brings_another_for_the_seed_floor() -> None:
    shots = list(shots_of(asked(seeds=1), "p", "sdpa", None))
    assert [(shot.role, shot.seed) for shot in shots] == [("exact", 0), ("method", 0), ("method", 0), ("exact", 1)]


@pytest.mark.parametrize(
    ("seeds", "pairs"),
    [(1, [(1, 0)]), (2, [(1, 0)]), (3, [(1, 0), (2, 1), (0, 2)]), (4, [(1, 0), (2, 1), (3, 2), (0, 3)])],
)
def test_no_two_seeds_are_compared_twice(seeds: int, pairs: list[tuple[int, int]]) -> None:
    found = seed_pairs(asked(seeds=seeds))
    assert found == pairs
    assert len({frozenset(pair) for pair in found}) == len(found)


def test_the_mini_model_has_a_prompt_of_its_own() -> None:
    assert asked().prompts == ["3 moving north-east"]
    assert asked(prompts=["ring west"]).prompts == ["ring moving west"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "wam"}, "did you mean 'wan'"),
        ({"model": "wan"}, "needs a prompt"),
        ({"methods": {"vmobaa": {}}}, "did you mean 'vmoba'"),
        ({"methods": {"sta": {"tiles": [1, 1, 1]}}}, "tile"),
        ({"metrics": ["psrn"]}, "did you mean 'psnr'"),
        ({"seeds": 0}, "seeds 0"),
        ({"seeds": 10**24}, f"seeds {10**24} must be from 1 to"),
        ({"seed": 2**32}, "seed 4294967296 must be a whole number from 0 to"),
        ({"dense_steps": float("inf")}, "dense_steps inf cannot be used"),
        ({"seed": -1}, "seed -1"),
        ({"steps": "many"}, "steps 'many'"),
        ({"frames": 1}, "one size"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": 1e9}, "fps 1000000000.0 must be 1000"),
        ({"prompts": ["ring west", "ring moving west"]}, "is given twice"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_words_of_the_user(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        asked(**changes)
