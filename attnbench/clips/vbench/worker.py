"""A script that runs inside VBench's environment. It imports or evaluates dimensions and writes one answer as JSON.

It must not import attnbench, which that environment does not have. It is called as ``python -P worker.py REQUEST``,
where the file REQUEST holds one of

    {"do": "check", "dimensions": [names], "answer": path}
    {"do": "evaluate", "dimension": name, "clips": folder, "prompts": null or {file name: prompt}, "output": folder,
     "device": null or name, "answer": path}

The answer is {"error": null or one line, "versions": {}}. The answer to a check also has {"imports": {name: null or one
line}}. An evaluation leaves VBench's ``clips_eval_results.json`` in the output folder.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import traceback
from pathlib import Path
from typing import Any

_kept: list[Any] = []
"""Objects that must not be freed while torchvision is in use."""


def main(request_file: str) -> int:
    """Carry out one request; return the exit code."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    answer: dict[str, Any] = {"error": None, "versions": {}}
    try:
        operators = import_torchvision()
        place_vocabulary()
        if request["do"] == "check":
            answer["imports"] = {name: import_problem(name) for name in request["dimensions"]}
            device = pick_device(None)
        else:
            device = pick_device(request["device"])
            evaluate(request, device)
        answer["versions"] = versions(operators, device)
    except Exception as error:
        traceback.print_exc()
        answer["error"] = one_line(error)
    target = Path(request["answer"])
    partial = target.with_name(target.name + ".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    os.replace(partial, target)
    return 0 if answer["error"] is None else 1


def import_torchvision() -> str:
    """Import torchvision, and return "native" if its compiled operators are there, else "absent".

    The wheel of torchvision is built for CUDA. With a CPU build of torch, its library does not load, and the import
    fails because two operators are undefined. Nothing here calls them, so declaring them is enough.
    """
    try:
        importlib.import_module("torchvision")
        return "native"
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = importlib.import_module("torch").library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    importlib.import_module("torchvision")
    return "absent"


def place_vocabulary() -> None:
    """Link CLIP's vocabulary to where VBench expects it.

    VBench would download the file, although openai-clip ships it.
    """
    cache, clip = os.environ.get("VBENCH_CACHE_DIR"), importlib.util.find_spec("clip")
    if not cache or clip is None or clip.origin is None:
        return
    name = "bpe_simple_vocab_16e6.txt.gz"
    source, target = Path(clip.origin).parent / name, Path(cache) / "ViCLIP" / name
    if source.is_file() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)


def import_problem(dimension: str) -> str | None:
    """Return the error of a dimension's import, or None if it succeeds."""
    try:
        importlib.import_module(f"vbench.{dimension}")
    except Exception as error:
        traceback.print_exc()
        return one_line(error)
    return None


def pick_device(name: str | None) -> str:
    """Return the device that was asked for, by default the GPU if torch finds one."""
    if name is not None:
        return name
    return "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"


def evaluate(request: dict[str, Any], device: str) -> None:
    """Let VBench score a folder of clips in one dimension.

    It writes ``clips_eval_results.json`` to the output folder.
    """
    torch, vbench = importlib.import_module("torch"), importlib.import_module("vbench")
    judge = vbench.VBench(torch.device(device), "", request["output"])
    judge.evaluate(
        videos_path=request["clips"],
        name="clips",
        prompt_list=request["prompts"] or [],
        dimension_list=[request["dimension"]],
        local=True,
        mode="custom_input",
        imaging_quality_preprocessing_mode="longer",
    )


def versions(operators: str, device: str) -> dict[str, str]:
    """Return what the scores depend on: the versions of Python and packages, and the device."""
    found = {"python": platform.python_version(), "device": device, "torchvision operators": operators}
    if device.startswith("cuda"):
        found["gpu"] = str(importlib.import_module("torch").cuda.get_device_name(device))
    for name in ("vbench", "torch", "torchvision", "numpy", "timm", "pyiqa", "decord", "opencv-python-headless"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def one_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
