"""``attnbench.models.load``: read a model from a local folder, never from the network."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from attnbench.inputs.files import visible
from attnbench.kernels.errors import BadInput, Unsupported, unknown_name
from attnbench.machine.device import resolve_device, resolve_dtype
from attnbench.models.families.recipes import RECIPES, Recipe
from attnbench.models.loaded import Loaded
from attnbench.models.random_wan import narrow
from attnbench.models.weight_files import check_model, components, read_index


def load(name: str, weights: Path | str, device: str | None = None, dtype: str | None = None) -> Loaded:
    """Read a text-to-video pipeline from a local folder. The network is never used.

    Every file is checked before the first one is loaded, so that an unusable folder is refused at once.

    Args:
        name: a name of ``attnbench.models.MODEL_NAMES``.
        weights: a folder in the layout of diffusers' ``save_pretrained``, with safetensors.
        device: "cpu" or "cuda"; by default the GPU if there is one.
        dtype: by default bfloat16 on a GPU and float32 on a CPU. Wan's VAE is always float32.

    Raises:
        BadInput: for an unknown name, and for weights that are missing, truncated, pickled, of another model, or that
            contain code.
        Unsupported: without diffusers, transformers or the device.
    """
    if name not in RECIPES:
        raise unknown_name("model", name, RECIPES)
    recipe, path = RECIPES[name], Path(weights).expanduser()
    where = resolve_device(device)
    values = resolve_dtype(dtype, where)
    models = components(path, read_index(path, recipe.pipeline))
    for part, kind in models.items():
        check_model(path / part, kind.partition(".")[2])
    if find_spec("diffusers") is None or find_spec("transformers") is None:
        raise Unsupported("models need diffusers and transformers: pip install 'attnbench[models]'")
    with _quiet():
        loaded = {part: _load_part(path / part, kind, values, recipe) for part, kind in models.items()}
        pipeline = _assemble(path, recipe, loaded)
    pipeline.set_progress_bar_config(disable=True)
    if recipe.tiled:
        pipeline.vae.enable_tiling()
    return Loaded(name, path, pipeline.to(where))


def _load_part(folder: Path, kind: str, dtype: torch.dtype, recipe: Recipe) -> Any:
    library, _, name = kind.partition(".")
    model_class = getattr(importlib.import_module(library), name, None)
    if model_class is None:
        raise BadInput(f"weights {str(folder)!r} are of a {name}, which this {library} does not have: update it")
    values = torch.float32 if recipe.wide_vae and folder.name == "vae" else dtype
    try:
        if library == "diffusers" and find_spec("accelerate") is None:
            model, lacking, unknown = _fill(model_class, folder, values)
        else:
            model, notes = model_class.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True, dtype=values
            )
            lacking = sorted(notes["missing_keys"])
            unknown = sorted(notes["unexpected_keys"]) if library == "diffusers" else []
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise BadInput(f"weights {str(folder)!r} cannot be loaded as a {name}: {_first_line(error)}") from error
    if lacking or unknown:
        what = f"lack tensor {lacking[0]!r}" if lacking else f"have an unknown tensor {unknown[0]!r}"
        raise BadInput(f"weights {str(folder)!r} {what}: they are of another model than their config.json")
    return model.eval()


def _fill(model_class: Any, folder: Path, dtype: torch.dtype) -> tuple[Any, list[str], list[str]]:
    """Fill a model as ``from_pretrained`` does, but without accelerate, which that needs for some models.

    Returns:
        The model, the names of tensors that its files lack, and the names that the model does not know.
    """
    from safetensors.torch import load_file

    model = model_class.from_config(model_class.load_config(str(folder), local_files_only=True))
    tensors = {
        name: tensor
        for file in sorted(visible(folder.glob("*.safetensors")))
        for name, tensor in load_file(file).items()
    }
    lacking, unknown = model.load_state_dict(tensors, strict=False)
    ignored = model_class._keys_to_ignore_on_load_unexpected or ()
    return (
        narrow(model, dtype),
        sorted(lacking),
        [n for n in sorted(unknown) if not any(re.search(i, n) for i in ignored)],
    )


def _assemble(path: Path, recipe: Recipe, models: dict[str, Any]) -> Any:
    """Add tokenizers and scheduler, which have no weights."""
    pipeline_class = getattr(importlib.import_module("diffusers"), recipe.pipeline)
    try:
        return pipeline_class.from_pretrained(str(path), local_files_only=True, use_safetensors=True, **models)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError, ImportError) as error:
        raise BadInput(
            f"weights {str(path)!r} cannot be put together as a {recipe.pipeline}: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".:")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the progress bars and notes of the libraries off the terminal. ``load`` reports errors itself."""
    libraries = [importlib.import_module(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    levels = [logging.get_verbosity() for logging in libraries]
    bars = [logging.is_progress_bar_enabled() for logging in libraries]
    for logging in libraries:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, level, bar in zip(libraries, levels, bars, strict=True):
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()
