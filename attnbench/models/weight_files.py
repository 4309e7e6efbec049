"""Check a folder of weights before anything is loaded: complete, safetensors only, and of the right model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attnbench.inputs.files import read_file, visible
from attnbench.kernels.errors import BadInput
from attnbench.machine.safe_weights import check_safetensors

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_LIBRARIES = ("diffusers", "transformers")


def read_index(path: Path, pipeline: str) -> dict[str, Any]:
    """Return the contents of ``model_index.json`` in a pipeline's folder.

    Args:
        path: the folder.
        pipeline: the class that the pipeline must have.

    Raises:
        BadInput: if it is missing, if the folder is not that of a pipeline, or if the class differs.
    """
    if not path.exists():
        raise BadInput(
            f"weights {str(path)!r} do not exist: give the local folder of a {pipeline}, as diffusers' save_pretrained "
            "or `hf download` writes it"
        )
    if not path.is_dir():
        raise BadInput(f"weights {str(path)!r} are a file: the folder of a whole {pipeline} is needed")
    index_file = path / "model_index.json"
    if not index_file.is_file():
        raise BadInput(
            f"weights {str(path)!r} have no model_index.json: the folder of a whole {pipeline} in diffusers' layout is "
            "needed, not of a part of it nor in another layout"
        )
    index = _read_json(index_file)
    found = index.get("_class_name")
    if found != pipeline:
        raise BadInput(f"weights {str(path)!r} are of a {found}, and a {pipeline} is needed")
    return index


def components(path: Path, index: dict[str, Any]) -> dict[str, str]:
    """Return the class of each model in a pipeline, by name, with its library, such as "diffusers.AutoencoderKLWan".

    Tokenizers and schedulers have no weights and are left out.

    Raises:
        BadInput: if a part has no folder, a tokenizer has no vocabulary, or a part comes from a library that may run
            code.
    """
    models = {}
    for name, entry in index.items():
        if name.startswith("_") or not isinstance(entry, list) or entry == [None, None]:
            continue
        library, kind = entry
        if library not in _LIBRARIES:
            raise BadInput(
                f"weights {str(path)!r} take their {name} from {library!r}, which may run code when read: only "
                f"parts of {' and '.join(_LIBRARIES)} are taken"
            )
        folder = path / name
        if not folder.is_dir() or not any(visible(folder.iterdir())):
            raise BadInput(f"weights {str(path)!r} have no {name}, which model_index.json names: copy all of them")
        if (folder / "tokenizer_config.json").is_file():
            _check_tokenizer(folder)
        elif not (folder / "scheduler_config.json").is_file():
            models[name] = f"{library}.{kind}"
    return models


def _check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer without a vocabulary, because transformers would make an empty one."""
    if not any(next(visible(folder.glob(words)), None) for words in ("tokenizer.json", "*.model", "vocab.*")):
        raise BadInput(f"weights {str(folder)!r} have no tokenizer.json: copy all of them")


def check_model(folder: Path, kind: str) -> None:
    """Check the weights of one model: its configuration, and the header and length of each file.

    Args:
        folder: the folder of the model.
        kind: its class, without the library.

    Raises:
        BadInput: if a file is missing, truncated, pickled, or of another model.
    """
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise BadInput(f"weights {str(folder)!r} have no config.json: copy all of them")
    config = _read_json(config_file)
    found = [config["_class_name"]] if "_class_name" in config else config.get("architectures")
    if found and kind not in found:
        raise BadInput(f"weights {str(folder)!r} are of a {found[0]}, and a {kind} is needed")
    files = sorted(visible(folder.glob("*.safetensors")))
    if not files:
        if pickled := sorted(file.name for file in visible(folder.iterdir()) if file.suffix in _PICKLED):
            raise BadInput(
                f"weights {str(folder / pickled[0])!r} are pickled, which may run code when read: only safetensors are "
                "taken"
            )
        raise BadInput(f"weights {str(folder)!r} have no .safetensors file: copy all of them")
    for index_file in visible(folder.glob("*.safetensors.index.json")):
        named = set(_read_json(index_file).get("weight_map", {}).values())
        if missing := sorted(named - {file.name for file in files}):
            raise BadInput(f"weights {str(folder)!r} have no {missing[0]}, one of {len(named)} files: copy all of them")
    for file in files:
        check_safetensors(file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(read_file(path))
    except (OSError, ValueError) as error:
        raise BadInput(f"weights: {str(path)!r} is truncated, or not JSON") from error
    if not isinstance(read, dict):
        raise BadInput(f"weights: {str(path)!r} holds no JSON object")
    return read
