"""Weights on disk: what goes in comes out, and what is not ours is refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attnbench.kernels.errors import BadInput
from attnbench.mini.classifier import load_classifier
from attnbench.mini.config import PRESETS
from attnbench.mini.model import MiniTransformer
from attnbench.mini.stored import load_mini, read_card, read_tensors, save_mini, shipped, write_tensors
from attnbench.results.files import write_whole


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    model = MiniTransformer(PRESETS["tiny"])
    save_mini(model, model.state_dict(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_weights_come_back_narrow_but_whole(tmp_path: Path) -> None:
    model = MiniTransformer(PRESETS["tiny"])
    path = tmp_path / "deep" / "tiny.safetensors"
    save_mini(model, model.state_dict(), path)
    read = load_mini(path)
    assert read.config == model.config
    assert not read.training
    for name, tensor in model.state_dict().items():
        got = read.state_dict()[name]
        assert got.dtype == torch.float32
        step = tensor.abs().amax(-1, keepdim=True) / (127 if name.endswith("weight") else 128)
        assert ((got - tensor).abs() <= step / 2 * 1.01).all(), name
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert path.stat().st_size < 1.4 * sum(parameter.numel() for parameter in model.parameters())


def refused(path: Path, said: str) -> None:
    with pytest.raises(BadInput, match=said) as error:
        load_mini(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_and_truncated_weights_are_refused(weights: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "No such file")
    whole = weights.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refused(weights, "truncated, or not a safetensors file")


def test_a_file_of_one_byte_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(b"\x80")
    refused(path, "truncated")


def test_pickled_weights_are_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "sprung"),))

    for protocol in (2, 4):
        path = tmp_path / f"pickled-{protocol}.safetensors"
        path.write_bytes(pickle.dumps(Trap(), protocol=protocol))
        refused(path, "pickled")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "saved.safetensors")
    assert zipfile.is_zipfile(tmp_path / "saved.safetensors")
    refused(tmp_path / "saved.safetensors", "pickled")
    assert not (tmp_path / "sprung").exists()


def test_weights_of_another_model_are_refused(weights: Path, tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "of another model")
    with pytest.raises(BadInput, match="mini-transformer, and not a mini-classifier"):
        load_classifier(weights)


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("head.bias", None, "lack tensor 'head.bias'"),
        ("extra", torch.zeros(1), "unknown tensor 'extra'"),
        ("head.bias", torch.zeros(3), r"head.bias is \[3\], and this model has \[24\]"),
        ("head.bias", torch.full((24,), torch.nan), "head.bias holds NaN"),
        ("embed.weight", torch.full((32, 24), torch.inf), "embed.weight holds NaN"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, name: str, tensor: torch.Tensor | None, said: str) -> None:
    model = MiniTransformer(PRESETS["tiny"])
    tensors = dict(model.state_dict())
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = tensor
    save_mini(model, tensors, tmp_path / "odd.safetensors")
    refused(tmp_path / "odd.safetensors", said)


def rewritten(weights: Path, tensors: dict[str, torch.Tensor | None], config: dict[str, object]) -> Path:
    """Write a file anew with some tensors and sizes changed; None leaves a tensor out."""
    found, about = read_tensors(weights, "mini-transformer")
    kept = {name: tensor for name, tensor in (found | tensors).items() if tensor is not None}
    path = weights.with_name("rewritten.safetensors")
    write_tensors(path, "mini-transformer", kept, {"config": about["config"] | config})
    return path


@pytest.mark.parametrize("factor", [None, torch.ones(3)])
def test_whole_numbers_without_their_factors_are_refused(weights: Path, factor: torch.Tensor | None) -> None:
    path = rewritten(weights, {"embed.weight:factor": factor}, {})
    refused(path, "embed.weight holds integers without a factor for each row")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"patch": [2, 2]}, r"patch is \(2, 2\); it must be 3 positive whole numbers"),
        ({"layers": 10**9}, "say 1000000000 layers"),
        ({"heads": 100}, "and this model has"),
        ({"heads": 10**8}, "sizes that no model can have"),
        ({"ffn": 10**30}, "sizes that no model can have"),
        ({"layers": 2}, "unknown tensor 'blocks.2"),
        ({"colour": 3}, "do not say which sizes"),
    ],
)
def test_sizes_that_the_tensors_do_not_have_are_refused_at_once(
    weights: Path, config: dict[str, object], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        load_mini(rewritten(weights, {}, config))


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_whole(b"old", path)

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BadInput, match="No space left"):
        write_whole(b"new", path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_does_not_ship_says_how_to_get_it() -> None:
    with pytest.raises(BadInput, match=r"no absent\.safetensors .*: train it"):
        shipped("absent.safetensors", "train it")


def test_a_card_that_is_no_json_is_refused(weights: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_card(weights)
    weights.with_suffix(".json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        read_card(weights)


def test_the_classifier_that_ships_is_small_and_says_how_well_it_reads() -> None:
    path = shipped("classifier.safetensors", "")
    assert path.stat().st_size <= 400_000
    about = read_tensors(path, "mini-classifier")[1]
    assert about["held_out"]["hits"] >= 0.98 * about["held_out"]["clips"]
