"""attnbench.patch under diffusers' context parallelism, on two and three gloo ranks: as one process, or refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from attnbench.kernels.errors import Unsupported
from attnbench.models.families.find import FAMILIES
from attnbench.models.spread import spread_of

RANKS = Path(__file__).with_name("spread_ranks.py")

if not dist.is_available() or importlib.util.find_spec("diffusers") is None:
    pytest.skip("needs diffusers and torch.distributed", allow_module_level=True)


def play(folder: Path, ranks: int) -> list[dict[str, Any]]:
    command = [sys.executable, str(RANKS), str(folder), str(ranks)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return play(tmp_path_factory.mktemp("spread"), 2)


def test_three_ranks_give_what_one_process_gives(tmp_path: Path) -> None:
    for rank in play(tmp_path, 3):
        cases = {name: case for name, case in rank.items() if name != "refusals"}
        assert len(cases) == 5
        for name, case in cases.items():
            assert case["error"] < 1e-12, name
            assert case["moves"] > 1e-3, name
            assert case["gradient"] is None or case["gradient"] < 1e-8, name
        assert sum(case["gradient"] is not None for case in cases.values()) == 4


@pytest.mark.parametrize(
    ("name", "sparse", "calls"),
    [
        ("wan full", False, [2, 2, 2]),
        ("wan vmoba", True, [0, 2, 2]),
        ("wan sta ragged", True, [2, 2, 2]),
        ("wan liteattention", False, [2, 2, 2]),
        ("wan ring vmoba", True, [2, 2, 2]),
        ("wan ring sta", True, [2, 2, 2]),
        ("ltx vmoba", True, [0, 2]),
        ("minimax-h3 vmoba", True, [0, 2]),
        ("minimax-h3 sta ragged", True, [2, 2]),
    ],
)
def test_a_spread_model_gives_what_one_process_gives(
    name: str, sparse: bool, calls: list[int], found: list[dict[str, Any]]
) -> None:
    for rank in found:
        assert rank[name]["error"] < 1e-12
        assert (rank[name]["moves"] > 1e-3) == sparse, "a sparse method must show in the output"
        assert rank[name]["calls"] == calls


def test_gradients_added_up_over_the_ranks_are_those_of_one_process(found: list[dict[str, Any]]) -> None:
    for rank in found:
        errors = {name: case["gradient"] for name, case in rank.items() if name != "refusals"}
        assert [name for name, error in errors.items() if error is None] == [
            "wan liteattention",
            "ltx vmoba",
            "minimax-h3 sta ragged",
        ]
        # The models compute some norms and embeddings in float32.
        assert all(error < 1e-7 for error in errors.values() if error is not None), errors


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("late", "enable_parallelism was called after the model was patched"),
        ("densities", "leave out densities"),
        ("graphs", "leave out graphs"),
        ("ring", "method 'sparge' does not say how its selection is gathered"),
        ("capture", "this is not possible with a model whose tokens are spread over ranks"),
        ("minimax-h3 ring", "a MiniMaxH3Transformer3DModel whose tokens are spread by ring_degree cannot be patched"),
        ("ltx ring", "a LTXVideoTransformer3DModel whose tokens are spread by ring_degree cannot be patched"),
        ("both", "ring_degree=2 with ulysses_degree=2 cannot be patched"),
    ],
)
def test_what_was_not_tested_is_refused(name: str, words: str, found: list[dict[str, Any]]) -> None:
    for rank in found:
        assert rank["refusals"][name].startswith("Unsupported: ")
        assert words in rank["refusals"][name]


@pytest.mark.parametrize("family", [each for each in FAMILIES if not each.spreads], ids=lambda family: family.name)
def test_families_that_were_not_tested_are_refused(family: Any) -> None:
    context = SimpleNamespace(ulysses_degree=2, ring_degree=1)
    config = SimpleNamespace(context_parallel_config=context, tensor_parallel_config=None)
    attn = SimpleNamespace(processor=SimpleNamespace(_parallel_config=config))
    blocks = [SimpleNamespace(attn1=attn, attn=attn)]
    transformer = SimpleNamespace(
        _parallel_config=config, blocks=blocks, transformer_blocks=blocks, single_transformer_blocks=[]
    )
    with pytest.raises(Unsupported, match="spread by ulysses_degree cannot be patched: it was not tested"):
        spread_of((transformer,), family)
    config.tensor_parallel_config = object()
    with pytest.raises(Unsupported, match="under tensor parallelism cannot be patched"):
        spread_of((transformer,), family)
