"""Densities that a run asks for: the settings that are found, the cells that result, and who is ranked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attnbench
from attnbench.bench.jobs import Job
from attnbench.bench.matched import CLOSE, WITHIN, distance, match_density
from attnbench.bench.recall import mass_recall
from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.methods import get_method
from attnbench.report.cases import cases_of
from attnbench.report.judge import judge
from attnbench.results.load import read
from attnbench.results.records.cells import Row

LAYOUT = Layout(Grid(4, 8, 8))
CURVES: dict[str, Callable[[float], float]] = {
    "as asked": lambda asked: asked,
    "steep": lambda asked: 1 - (1 - asked) ** 8,
    "flat": lambda asked: asked**6,
    "in steps": lambda asked: round(20 * asked) / 20,
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("target", [0.05, 0.2, 0.4, 0.95])
def test_a_density_that_can_be_reached_is_reached(curve: str, target: float) -> None:
    method = get_method("sla")

    def density_of(job: Job) -> float:
        return CURVES[curve](job.settings.topk)

    found = match_density(Job(method, method.settings(), 0), LAYOUT, target, density_of)
    assert distance(density_of(found), target) <= CLOSE


def test_otherwise_the_nearest_is_taken_in_few_plans() -> None:
    method, tries = get_method("sla"), []

    def at_most_a_third(job: Job) -> float:
        tries.append(job.settings.topk)
        return job.settings.topk / 3

    found = match_density(Job(method, method.settings(), 0), LAYOUT, 0.5, at_most_a_third)
    assert found.settings.topk == 1.0
    assert tries == [0.5, 1.0]
    found = match_density(Job(method, method.settings(), 0), LAYOUT, 0.29, lambda job: round(4 * job.settings.topk) / 4)
    assert round(4 * found.settings.topk) == 1
    assert len(set(tries)) == len(tries)


def test_what_was_given_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("sla")
    job = Job(method, method.settings(block=(8, 8)), 0, given='{"block":[8,8]}')
    found = match_density(job, LAYOUT, 0.5, lambda moved: moved.settings.topk**2)
    assert found.settings.block == (8, 8)
    assert found.settings.topk == pytest.approx(0.5**0.5, rel=0.01)
    assert found.given == job.given


def measure(folder: Path, **options: Any) -> list[Row]:
    attnbench.run(
        ["sla:block=[8,8]", "draft:patch=[4,4]"], grid=(3, 8, 8), heads=1, head_dim=16, inputs="gaussian", rounds=1,
        stability_calls=2, out=folder, device="cpu", **options,
    )  # fmt: skip
    return [row for row in read(folder).rows if row.method != "full"]


def test_a_run_asks_for_a_density(tmp_path: Path) -> None:
    rows = measure(tmp_path / "matched", density=0.25)
    assert [row.density_asked for row in rows] == [0.25, 0.25]
    for row in rows:
        assert row.density is not None
        assert ("unmatched" in str(row.flags)) == (distance(row.density, 0.25) > WITHIN)
        assert "topk" not in str(row.settings_given)
        assert row.mass_recall is not None
        assert row.mass_recall_worst is not None
        assert 0 <= row.mass_recall_worst <= row.mass_recall <= 1
    others = measure(tmp_path / "plain")
    assert {row.density_asked for row in others} == {None}
    assert not {row.cell_id for row in rows} & {row.cell_id for row in others}


def test_who_misses_the_density_is_not_ranked(tmp_path: Path) -> None:
    results = read_after(tmp_path / "run")
    case = cases_of(results)[0]
    fast = min(case.sparse, key=lambda row: row.latency_ms or 0)
    assert judge(case).leader is not None
    flagged = [row.model_copy(update={"flags": "unmatched"}) if row is fast else row for row in case.rows]
    leader = judge(cases_of(flagged)[0]).leader
    assert leader is not None
    assert leader.method != fast.method
    none = judge(cases_of([row.model_copy(update={"flags": "unmatched"}) for row in case.rows])[0])
    assert none.leader is None
    assert "no sparse method reached the density" in none.sentence


def read_after(folder: Path) -> list[Row]:
    measure(folder)
    return list(read(folder).rows)


@pytest.mark.parametrize(
    ("methods", "options", "message"),
    [
        (["full"], {"density": 0.2}, "method 'full' has no setting that --density could turn"),
        (["sla:topk=0.3"], {"density": 0.2}, "sla.topk=0.3: --density sets it; leave it out"),
        (["sla"], {"density": 1.5}, "density 1.5 must be 1.0 or less"),
        (["sla"], {"density": 0}, "density 0 must be"),
    ],
)
def test_what_cannot_be_asked(methods: list[str], options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=message):
        attnbench.run(methods, grid=(2, 3, 4), heads=1, out=tmp_path / "run", **options)


def test_recall_is_the_share_of_full_attentions_mass() -> None:
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 300, 8, generator=random), torch.randn(1, 2, 300, 8, generator=random)
    plan = attnbench.select(q, k, method="sla", grid=(3, 10, 10), block=(10, 10), topk=0.3)
    weights = (q.double() @ k.double().repeat_interleave(2, 1).mT * 0.4).softmax(-1)
    shares = (weights * plan.token_mask()).sum(-1).flatten().sort().values
    found = mass_recall(q, k, plan, 0.4, seed=0)
    assert found.queries == 1200  # all there are, as they are fewer than 4,096
    assert found.mean == pytest.approx(float(shares.mean()), abs=1e-6)
    assert found.worst == pytest.approx(float(shares[:12].mean()), abs=1e-6)
    full = attnbench.select(q, k, method="full", grid=(3, 10, 10))
    assert mass_recall(q, k, full, 0.4, seed=0).worst == pytest.approx(1)


def test_recall_samples_as_many_queries_as_it_says() -> None:
    x = torch.zeros(1, 3, 2000, 4)
    plan = attnbench.select(x, x, method="full", grid=(1, 1, 2000))
    assert mass_recall(x, x, plan, 1.0, seed=0).queries == 3 * 1366
