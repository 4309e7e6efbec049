"""Weights on disk: safetensors only, written completely or not at all, and refused if they are something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnbench.inputs.files import read_file
from attnbench.kernels.errors import BadInput
from attnbench.machine.safe_weights import check_safetensors
from attnbench.mini.config import ModelConfig
from attnbench.mini.model import MiniTransformer
from attnbench.results.files import write_whole

_KIND = "attnbench-kind"
"""Header entry that says what kind of file it is."""
_MINI = "mini-transformer"
_FACTOR = ":factor"


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors, and a few JSON values about them, to one safetensors file.

    Args:
        kind: the kind of file, which ``read_tensors`` checks.

    Raises:
        BadInput: if the file cannot be written.
    """
    from safetensors.torch import save

    header = {_KIND: kind, **{name: json.dumps(value) for name, value in about.items()}}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(save(plain, metadata=header), path, "")


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON values that ``write_tensors`` wrote.

    Raises:
        BadInput: if the file is missing, pickled, truncated, not a safetensors file, or of another kind.
    """
    check_safetensors(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as opened:
            header = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, OSError) as error:
        raise BadInput(f"weights {str(path)!r} are truncated, or not a safetensors file") from error
    found = header.pop(_KIND, None)
    if found != kind:
        raise BadInput(f"weights {str(path)!r} are {'of another model' if found is None else found}, and not a {kind}")
    try:
        return tensors, {name: json.loads(value) for name, value in header.items()}
    except ValueError as error:
        raise BadInput(f"weights {str(path)!r} have a header that is not JSON") from error


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a module with the same names and shapes, in the module's dtypes.

    Raises:
        BadInput: if a name is missing or unknown, a shape differs, or a value is NaN or Inf.
    """
    _check_fit(module, tensors, path)
    module.load_state_dict(dict(tensors))


def _check_fit(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    wanted = module.state_dict()
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        what = "lack" if odd[0] in wanted else "have an unknown"
        raise BadInput(f"weights {str(path)!r} {what} tensor {odd[0]!r}: they are of another model")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise BadInput(
                f"weights {str(path)!r}: {name} is {list(tensor.shape)}, and this model has {list(wanted[name].shape)}"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BadInput(f"weights {str(path)!r}: {name} holds NaN or Inf")


def save_mini(model: MiniTransformer, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a mini model's weights: ``tensors`` by the names of ``model.state_dict()``.

    Matrices are stored as integers from -127 to 127 with a factor for each row, everything else in bfloat16.

    Raises:
        BadInput: if the file cannot be written.
    """
    narrow: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.dim() == 2:
            # A row with NaN or Inf is still noticed: its factor is not finite, and reading refuses it.
            factor = tensor.float().abs().amax(1).clamp(min=1e-12) / 127
            narrow[name] = (tensor.float() / factor[:, None]).round().nan_to_num().to(torch.int8)
            narrow[name + _FACTOR] = factor
        else:
            narrow[name] = tensor.to(torch.bfloat16)
    write_tensors(path, _MINI, narrow, {"config": asdict(model.config)})


def _widened(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Convert the matrices that ``save_mini`` wrote back to floating point.

    Raises:
        BadInput: for integers whose factors are missing or do not fit them.
    """
    wide = {name: tensor for name, tensor in tensors.items() if not name.endswith(_FACTOR)}
    for name, factor in tensors.items():
        matrix = wide.get(name.removesuffix(_FACTOR))
        if name.endswith(_FACTOR) and matrix is not None and matrix.shape[:1] == factor.shape:
            wide[name.removesuffix(_FACTOR)] = matrix.float() * factor.float()[:, None]
    for name, tensor in wide.items():
        if not tensor.is_floating_point():
            raise BadInput(f"weights {str(path)!r}: {name} holds integers without a factor for each row")
    return wide


def load_mini(path: Path | None = None, device: torch.device | str = "cpu") -> MiniTransformer:
    """Return a mini model ready to generate, with float32 weights.

    Args:
        path: a file of ``save_mini``; None for the weights of this package.

    Raises:
        BadInput: if the file is missing, truncated, pickled, or of another model.
    """
    chosen = shipped("mini.safetensors", "train it with: attnbench train --method full") if path is None else path
    tensors, about = read_tensors(chosen, _MINI)
    try:
        config = ModelConfig(**about["config"])
    except (KeyError, TypeError) as error:
        raise BadInput(f"weights {str(chosen)!r} do not say which sizes the model has") from error
    if config.layers > len(tensors):
        raise BadInput(f"weights {str(chosen)!r} say {config.layers} layers and hold {len(tensors)} tensors")
    wide = _widened(tensors, chosen)
    try:
        with torch.device("meta"):  # so that sizes that the tensors do not have cost no memory
            twin = MiniTransformer(config)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise BadInput(f"weights {str(chosen)!r} say sizes that no model can have: {about['config']}") from error
    _check_fit(twin, wide, chosen)
    model = MiniTransformer(config)
    model.load_state_dict(wide)
    return model.to(device).eval()


def read_card(path: Path | None = None) -> dict[str, Any]:
    """Return the model card beside a file of weights: data, steps, curve, seed, licence.

    Args:
        path: the weights; None for those of this package.

    Raises:
        BadInput: if there is no card, or it is not JSON.
    """
    weights = shipped("mini.safetensors", "train it with: attnbench train --method full") if path is None else path
    card = weights.with_suffix(".json")
    try:
        read: dict[str, Any] = json.loads(read_file(card))
    except OSError as error:
        raise BadInput(f"model card {str(card)!r} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"model card {str(card)!r} is not JSON") from error
    return read


def shipped(name: str, otherwise: str) -> Path:
    """Return the path of a file of weights in the package.

    Raises:
        BadInput: if it is missing; ``otherwise`` says what to do then.
    """
    path = Path(str(files("attnbench.mini").joinpath("weights", name)))
    if not path.is_file():
        raise BadInput(f"this installation has no {name} in attnbench/mini/weights: {otherwise}")
    return path
