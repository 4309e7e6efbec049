"""Methods whose orders or blocks differ by head, or that keep a state, against recorded selections and outputs.

tests/golden/heads/index.json lists the cases: grid, text, settings in our words, and where the case comes from. q, k
and v are in units of 1/64; masks of svg1 are packed by ``numpy.packbits``; outputs are those of the tokens ``out_at``.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attnbench
from attnbench import BadInput
from attnbench.kernels.grid import Grid, Layout
from attnbench.kernels.kmeans import cluster
from attnbench.methods import Call, get_method, svg1
from attnbench.methods.bsa import BSA
from attnbench.methods.ditfastattn import DiTFastAttn, width_for
from attnbench.methods.svg1 import SVG1, band_width
from attnbench.methods.svg2 import SVG2
from attnbench.results.records.cells import Row

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "heads"
CASES: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_text("utf-8"))


def of(method: str) -> pytest.MarkDecorator:
    chosen = [case for case in CASES if case["method"] == method]
    return pytest.mark.parametrize("case", chosen, ids=[Path(case["file"]).stem for case in chosen])


def load(case: dict[str, Any]) -> dict[str, Tensor]:
    with np.load(FOLDER / case["file"], allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays}


def tokens(golden: dict[str, Tensor], name: str) -> Tensor:
    return golden[name][None].float() / 64


def call(case: dict[str, Any], **more: Any) -> dict[str, Any]:
    return (
        {"method": case["method"], "grid": tuple(case["grid"]), "text": tuple(case["text"])} | case["settings"] | more
    )


def unpacked(packed: Tensor, size: int) -> Tensor:
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=-1, count=size)).bool()


def check_output(golden: dict[str, Tensor], out: Tensor, name: str = "out") -> None:
    torch.testing.assert_close(out[0, :, golden["out_at"].long()], golden[name], atol=2e-5, rtol=0)


def test_every_file_is_listed_once() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.npz")) == sorted(case["file"] for case in CASES)


@of("bsa")
def test_bsa_keeps_and_copies_as_recorded(case: dict[str, Any]) -> None:
    golden = load(case)
    q, k, v = (tokens(golden, name) for name in "qkv")
    sizes, order = golden["k_offsets"].diff().long(), golden["order"].long()
    arranged = golden["keep"].repeat_interleave(sizes, 1).repeat_interleave(sizes, 2)
    expected = torch.empty_like(arranged)
    expected[:, order[:, None], order] = arranged
    expected &= golden["query_kept"][..., None]
    plan = attnbench.select(q, k, **call(case))
    assert torch.equal(plan.token_mask()[0], expected)
    assert torch.equal(plan.kept[0], golden["output_of"].long())
    assert plan.empty_rows == int((~golden["query_kept"]).sum())
    check_output(golden, attnbench.attention(q, k, v, **call(case)))


def test_queries_that_keep_no_key_may_have_an_output_and_the_columns_say_so() -> None:
    q, k, v = torch.randn(3, 1, 2, 64, 8, generator=torch.Generator().manual_seed(0)).unbind()
    output, lse, plan = attnbench.attention(q, k, v, method="bsa", grid=(4, 4, 4), return_lse=True, return_plan=True)
    empty = ~plan.token_mask().any(-1)
    assert int(empty.sum()) == plan.empty_rows > 0
    assert bool((lse[empty] == -torch.inf).all())
    assert bool(output[empty].any(-1).all())
    for told in (Row.model_fields["empty_rows"].description, type(plan).__dict__["empty_rows"].__doc__):
        assert "0 unless the method" in told


@of("svg1")
def test_svg1_classifies_and_keeps_as_recorded(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    golden, settings = load(case), SVG1(**case["settings"])
    q, k, v = (tokens(golden, name) for name in "qkv")
    layout = Layout(Grid(*case["grid"]), tuple(case["text"]))
    profiles = svg1.profiling_masks(settings.flavour, layout, torch.arange(layout.tokens))
    recorded = unpacked(golden["profiles"], layout.tokens)
    rows = torch.ones(layout.tokens, dtype=torch.bool)
    if settings.flavour == "cogvideox":  # whose temporal profile leaves text without a key, which gives NaN
        rows[: case["text"][0]] = False
    assert torch.equal(profiles[:, rows], recorded[:, rows])

    sampled = golden["sampled_rows"].long()
    masks = svg1.profiling_masks(settings.flavour, layout, sampled)
    monkeypatch.setattr(svg1, "_profiled", lambda *settings: (sampled, masks))
    plan = attnbench.select(q, k, v=v, **call(case))
    assert torch.equal(plan.token_mask()[0], unpacked(golden["mask"], layout.tokens))
    check_output(golden, attnbench.attention(q, k, v, **call(case)))
    flags = tuple(golden["temporal"].tolist())
    told = attnbench.select(q, k, v=v, **call(case, temporal=flags))
    assert torch.equal(told.token_mask(), plan.token_mask())
    assert told.selection_flops == 0 < plan.selection_flops


@of("svg2")
def test_svg2_clusters_and_keeps_as_recorded(case: dict[str, Any]) -> None:
    golden = load(case)
    q, k = tokens(golden, "q"), tokens(golden, "k")
    begin = {
        f"{x}_centroids": tokens(golden, x).gather(
            2, golden[f"{x}_init"].long()[None, :, :, None].expand(1, -1, -1, 16)
        )
        for x in "qk"
    }
    before = {name: x.clone() for name, x in begin.items()}
    plan = attnbench.select(q, k, state=begin, **call(case))
    assert torch.equal(plan.token_mask()[0], of_clusters(golden, ""))
    for name, x in begin.items():
        assert torch.equal(x, before[name]), "a plan never changes the state it got"
        torch.testing.assert_close(plan.state[name][0], golden[name], atol=1e-6, rtol=0)
    if "v" in golden:
        check_output(golden, attnbench.attention(q, k, tokens(golden, "v"), state=begin, **call(case)))
    if "q2" in golden:
        then = attnbench.select(
            tokens(golden, "q2"), tokens(golden, "k2"), state=plan.state, **call(case, iterations=2)
        )
        assert torch.equal(then.token_mask()[0], of_clusters(golden, "2"))
        torch.testing.assert_close(then.state["k_centroids"][0], golden["k_centroids2"], atol=1e-6, rtol=0)


def of_clusters(golden: dict[str, Tensor], step: str) -> Tensor:
    q_labels, k_labels = (golden[f"{x}_labels{step}"].long() for x in "qk")
    return torch.stack([keep[a][:, b] for keep, a, b in zip(golden[f"keep{step}"], q_labels, k_labels, strict=True)])


@of("ditfastattn")
def test_ditfastattn_keeps_the_residual_of_a_full_step(case: dict[str, Any]) -> None:
    golden = load(case)
    q, k, v = (golden[name].float() / (64 if golden[name].dtype == torch.int16 else 1) for name in "qkv")
    at = torch.arange(q.shape[2])
    window = (at[:, None] - at).abs() <= case["settings"]["width"]
    assert torch.equal(attnbench.select(q[:1], k[:1], **call(case)).token_mask(), window.expand(1, 2, -1, -1))
    full, plan = attnbench.attention(q[:1], k[:1], v[:1], step=0, return_plan=True, **call(case))
    assert plan.pattern.is_full
    assert plan.branch_flops == 4 * 16 * 2 * int(window.sum())
    check_output(golden, full, "out_full")
    check_output(golden, plan.state["residual"], "residual")
    state = {name: x.clone() for name, x in plan.state.items()}
    out, then = attnbench.attention(q[1:], k[1:], v[1:], step=1, state=plan.state, return_plan=True, **call(case))
    check_output(golden, out)
    assert all(torch.equal(plan.state[name], x) for name, x in state.items())
    assert torch.equal(then.state["output"], out)
    assert torch.equal(then.state["residual"], state["residual"])


def test_ditfastattn_follows_a_schedule(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"1": {"1": "window", "2": "share"}}))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 24, 8, generator=generator) for _ in range(3))
    where: dict[str, Any] = {"method": "ditfastattn", "grid": (2, 3, 4), "schedule": str(path), "layer": 1, "width": 2}
    _, first = attnbench.attention(q, k, v, step=0, return_plan=True, **where)
    moved = q.roll(1, 2)
    second, then = attnbench.attention(moved, k, v, step=1, state=first.state, return_plan=True, **where)
    window = attnbench.attention(moved, k, v, method="sliding-window", grid=(2, 3, 4), width=2)
    torch.testing.assert_close(second, window + first.state["residual"])
    third, last = attnbench.attention(q, k, v, step=2, state=then.state, return_plan=True, **where)
    assert torch.equal(third, second)
    assert (last.pairs, last.empty_rows) == (0, 2 * 24)
    assert attnbench.select(q, k, step=1, **where | {"layer": 0}).pattern.is_full, "what is not listed is full"
    with pytest.raises(BadInput, match=r"step 1 of layer 1 is 'window' in .*; pass plan.state of the step before"):
        attnbench.select(q, k, step=1, **where)
    with pytest.raises(BadInput, match="runs a schedule by steps; pass the step"):
        attnbench.select(q, k, **where)
    with pytest.raises(BadInput, match="method 'ditfastattn' has no gradient"):
        attnbench.attention(q.requires_grad_(), k, v, step=0, **where)


def test_the_default_width_is_nearest_to_half_of_the_pairs() -> None:
    for shape in ((2, 3, 4), (1, 1, 1), (21, 30, 52)):
        n = shape[0] * shape[1] * shape[2]
        width = width_for(Layout(Grid(*shape)), 0.5)

        def miss(w: int, n: int = n) -> float:
            return abs((n * (2 * w + 1) - w * (w + 1)) / n**2 - 0.5)

        assert miss(width) <= min(miss(w) for w in (max(0, width - 1), min(n - 1, width + 1)))


def test_k_means_like_its_definition_with_empty_and_equal_clusters() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 40, 5, generator=generator)
    begin = torch.cat([x[:, :, :4], x[:, :, 2:3], torch.full((2, 3, 1, 5), 50.0)], 2)  # one twice, one far from all
    found = cluster(x, begin, 3)
    for b in range(2):
        for h in range(3):
            centroids = begin[b, h].double()
            for _ in range(3):
                distance = torch.cdist(x[b, h].double(), centroids)
                labels = torch.tensor([min(range(6), key=lambda c: (round(float(row[c]), 9), c)) for row in distance])
                centroids = torch.stack(
                    [
                        x[b, h][labels == c].double().mean(0) if bool((labels == c).any()) else centroids[c]
                        for c in range(6)
                    ]
                )
            assert torch.equal(found.order[b, h], labels.argsort(stable=True))
            assert torch.equal(found.sizes[b, h], torch.bincount(labels, minlength=6))
            torch.testing.assert_close(found.centroids[b, h].double(), centroids, atol=1e-5, rtol=0)
    assert bool((found.sizes == 0).any())
    twice = torch.cat([x[:, :, :20], x[:, :, :20]], 2)
    assert not cluster(x, twice, 1).sizes[:, :, 20:].any(), "of equal centroids, the first is the nearest"
    alone = cluster(x[:1], begin[:1], 60)
    with_settled = cluster(torch.cat([x[:1], x[:1]]), torch.cat([begin[:1], alone.centroids]), 60)
    assert torch.equal(with_settled.centroids[:1], alone.centroids), "an item does not end those of another"
    settled = cluster(x, cluster(x, begin, 60).centroids, 1)
    assert torch.equal(settled.centroids, cluster(x, begin, 60).centroids), "what has settled stays as it is"


@pytest.mark.parametrize(("scale", "same"), [(1.0, True), (0.03, True), (1e-3, False)])
def test_heads_of_svg2_keep_the_same_alone_unless_their_numbers_are_tiny(scale: float, same: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 2000, 16, generator=generator).unbind()
    q[:, 0] *= scale
    k[:, 0] *= scale
    call = {"method": "svg2", "grid": (5, 20, 20), "q_clusters": 20, "k_clusters": 20}
    alone = attnbench.select(q[:, :1], k[:, :1], **call).token_mask()
    assert torch.equal(attnbench.select(q, k, **call).token_mask()[:, :1], alone) is same


def test_bsa_at_ragged_edges_keeps_a_share_of_every_tile_and_copies_the_nearest() -> None:
    generator = torch.Generator().manual_seed(5)
    grid, text = (5, 6, 7), (2, 1)
    n = 5 * 6 * 7 + 3
    q, k, v = (torch.randn(1, 2, n, 8, generator=generator) for _ in range(3))
    plan = attnbench.select(q, k, method="bsa", grid=grid, text=text, query_share=0.3)
    kept = plan.token_mask()[0].any(-1)
    place = {}
    for t in range(5):
        for h in range(6):
            for w in range(7):
                place.setdefault((t // 4, h // 4, w // 4), []).append(2 + (t * 6 + h) * 7 + w)
    for tile in place.values():
        index = torch.tensor(tile)
        for head in range(2):
            mine = kept[head, index]
            assert int(mine.sum()) == max(1, int(0.3 * len(tile)))
            centre = q[0, head, tile[len(tile) // 2]].double()
            alike = torch.nn.functional.cosine_similarity(q[0, head, index].double(), centre[None])
            assert alike[mine].max() <= (alike[~mine].min() if bool((~mine).any()) else 2)
            for at, token in enumerate(tile):
                source = min((abs(at - other), other) for other in range(len(tile)) if bool(mine[other]))[1]
                assert int(plan.kept[0, head, token]) == tile[source]
    assert bool(kept[:, :2].all())
    assert bool(kept[:, -1:].all())
    out = attnbench.attention(q, k, v, method="bsa", grid=grid, text=text, query_share=1.0, mass=1.0)
    torch.testing.assert_close(out, attnbench.attention(q, k, v, method="full", grid=grid, text=text))


@pytest.mark.parametrize("name", ["svg1", "sparge"])
def test_a_method_called_by_itself_refuses_another_number_of_values_than_of_heads(name: str) -> None:
    method, (q, k) = get_method(name), torch.randn(2, 1, 2, 24, 8, generator=torch.Generator().manual_seed(0)).unbind()
    for setting in method.per_head:
        value = (True, False, True) if name == "svg1" else (0.5, 0.6, 0.7)
        settings = method.settings(**{setting: value})
        with pytest.raises(BadInput, match=f"^{setting} has 3 values and q has 2 heads; give one value, or one for"):
            method.plan(settings, q, k, Call(Layout(Grid(2, 3, 4)), v=k))


def test_the_band_of_svg1_has_its_published_widths() -> None:
    wan = Layout(Grid(21, 45, 80))
    assert band_width(0.3, "wan", wan) == 12416
    assert band_width(1.0, "wan", wan) >= wan.tokens
    assert band_width(0.1, "hunyuan", Layout(Grid(2, 3, 4), (0, 20))) == -1


def test_a_band_of_no_width_keeps_text_alone() -> None:
    q = torch.randn(1, 2, 44, 8)
    plan = attnbench.select(q, q, v=q, method="svg1", grid=(2, 3, 4), text=(0, 20), flavour="hunyuan", share=0.1)
    mask = plan.token_mask()
    assert not mask[:, :, :24, :24].any()
    assert bool(mask[:, :, 24:].all())
    assert bool(mask[..., 24:].all())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((SVG1, {"share": 0}), "share is 0; it must be a number above 0 and at most 1"),
        ((SVG1, {"flavour": "mochi"}), "flavour is 'mochi'; it must be one of wan, hunyuan, cogvideox"),
        ((SVG1, {"temporal": (True, 1)}), "temporal is .*; it must be true or false, one flag for each head, or none"),
        ((SVG1, {"text_dense": False}), "text_dense is False"),
        ((SVG2, {"iterations": 0}), "iterations is 0; it must be a whole number of at least 1"),
        ((SVG2, {"least_share": 1.5}), "least_share is 1.5; it must be a number of at least 0 and at most 1"),
        ((BSA, {"query_share": 0}), "query_share is 0; it must be a number above 0 and at most 1"),
        ((BSA, {"least": 0}), "least is 0; it must be a whole number of at least 1"),
        ((DiTFastAttn, {"width": -1}), "width is -1; it must be a whole number of at least 0"),
        ((DiTFastAttn, {"schedule": "/nowhere.json"}), "schedule '/nowhere.json' cannot be used"),
    ],
)
def test_settings_out_of_range(settings: tuple[Any, dict[str, Any]], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        settings[0](**settings[1])


def test_a_schedule_of_other_words_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for text, words in (
        ('{"0": {"1": "half"}}', "an object of layers"), ("[]", "an object of layers"), ("{", "Expecting"),
        ('{"x": {"1": "full"}}', "an object of layers"), ("[" * 10**5, "recursion"),
        ('{"3": {"0": "window"}}', "step 0 of layer 3 is 'window'; it must be full"),
        ('{"03": {"0": "full"}}', "an object of layers"),
        ('{"3": {"1": "full", "01": "share"}}', "an object of layers"),
        ('{"3": {"0": "full"}, "3": {"0": "full"}}', "an object names '3' twice"),
        ('{"3": {"999999999": "window"}}', "layer 3 names step 999999999; steps are at most 9999"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(BadInput, match=f"cannot be used: .*{words}"):
            DiTFastAttn(schedule=str(path))


def test_the_steps_of_a_schedule_stay_where_they_are_behind_dense_ones(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"0": {"2": "window", "5": "share", "6": "window", "9": "full"}}')
    for dense, warm, steady in ((0, (0, 1), 2), (3, (3, 4, 5), 6), (4, (4, 5), 6), (7, (7,), 8)):
        cycle = get_method("ditfastattn").cycle_of(DiTFastAttn(schedule=str(path), dense_steps=dense), 0)
        assert cycle is not None
        assert (cycle.warm, cycle.steady, cycle.refresh) == (warm, steady, dense)
    assert cycle.every == 50


@pytest.mark.parametrize(
    ("schedule", "dense", "steady", "every", "other", "other_every", "mean"),
    [
        ({"1": "window", "2": "window", "3": "full", "4": "window"}, 0, 1, 5 / 2, None, math.inf, (2 * 10 + 3 * 4) / 5),
        ({"1": "share", "2": "window", "4": "window", "5": "share", "6": "share"}, 0, 2, 7 / 2, 1, 7 / 3,
         (2 * 10 + 2 * 4 + 3 * 1) / 7),
        ({"1": "share", "2": "window", "4": "window", "5": "share", "6": "share"}, 3, 4, 4, 5, 2,
         (1 * 10 + 1 * 4 + 2 * 1) / 4),
        ({"1": "share", "3": "share"}, 0, 1, 2, None, math.inf, (2 * 10 + 2 * 4) / 4),
        ({"1": "window", "49": "full"}, 0, 1, 50 / 49, None, math.inf, (49 * 10 + 4) / 50),
    ],
)  # fmt: skip
def test_the_mean_step_of_a_schedule_has_each_kind_as_often_as_the_schedule(
    schedule: dict[str, str], dense: int, steady: int, every: float, other: int | None, other_every: float,
    mean: float, tmp_path: Path,
) -> None:  # fmt: skip
    """With 10 for a full step, 4 for the steady one and 1 for one of the third kind."""
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"3": schedule}))
    cycle = get_method("ditfastattn").cycle_of(DiTFastAttn(schedule=str(path), dense_steps=dense), 3)
    assert cycle is not None
    assert (cycle.steady, cycle.every, cycle.other, cycle.other_every) == (steady, every, other, other_every)
    assert cycle.amortised(4, 10, 1) == pytest.approx(mean)


def test_a_clip_has_as_many_steps_as_the_longest_line_of_its_schedule(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"0": {"1": "window"}, "1": {"1": "window", "9": "full"}}')
    for layer in (0, 1):
        cycle = get_method("ditfastattn").cycle_of(DiTFastAttn(schedule=str(path)), layer)
        assert cycle is not None
        assert cycle.every == 10 / 9


def test_a_schedule_of_full_steps_has_a_cycle(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for text in ('{"0": {"0": "full"}}', '{"0": {}}'):
        path.write_text(text)
        cycle = get_method("ditfastattn").cycle_of(DiTFastAttn(schedule=str(path)), 0)
        assert cycle is not None
        assert (cycle.warm, cycle.steady) == ((0,), 1)


def test_states_that_do_not_fit() -> None:
    q = torch.randn(1, 2, 24, 8)
    where: dict[str, Any] = {"method": "svg2", "grid": (2, 3, 4), "q_clusters": 3, "k_clusters": 4}
    good = attnbench.select(q, q, **where).state
    for state, words in (
        ({"q_centroids": good["q_centroids"]}, "the state of svg2 is a dictionary of q_centroids"),
        ([], "the state of svg2 is of type list"),
        (good | {"k_centroids": good["k_centroids"][:, :, :2]}, r"k_centroids of the state is float32 \[1, 2, 2, 8\]"),
        (good | {"q_centroids": good["q_centroids"].double()}, r"q_centroids of the state is float64"),
    ):
        with pytest.raises(BadInput, match=words):
            attnbench.select(q, q, state=state, **where)
    for residual in (q[:, :1], q.double()):
        with pytest.raises(BadInput, match=r"residual of the state is .*; it must be float32 \[1, 2, 24, 8\] on"):
            attnbench.select(
                q, q, method="ditfastattn", grid=(2, 3, 4), step=1, state={"residual": residual, "output": q}
            )
    with pytest.raises(BadInput, match="q_clusters is 25; it must fit into the 24 tokens"):
        attnbench.select(q, q, **where | {"q_clusters": 25})
    with pytest.raises(BadInput, match="method 'svg1' selects by the values too"):
        attnbench.select(q, q, method="svg1", grid=(2, 3, 4))
    assert dataclasses.asdict(SVG1())["dense_steps"] == 0
    assert Call(Layout(Grid(2, 3, 4))).v is None
