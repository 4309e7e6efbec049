"""Writes down how it was called, then gives, breaks or hangs as it is told."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

importlib.import_module("torchvision")  # as the real one does

told = json.loads(os.environ.get("FAKE_VBENCH", "{}"))


def tree(folder):
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_text(errors="replace")
    return found


class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.device, self.output = device, Path(output_path)
        self.output.mkdir()

    def evaluate(self, videos_path, name, prompt_list, dimension_list, local, mode, **others):
        (dimension,) = dimension_list
        videos = sorted(Path(videos_path).iterdir())
        call = {
            "dimension": dimension,
            "device": self.device,
            "videos": {video.name: os.path.realpath(video) for video in videos},
            "prompts": prompt_list,
            "local": local,
            "mode": mode,
            "others": others,
            "cache": tree(os.environ["VBENCH_CACHE_DIR"]),
            "torch home": tree(os.environ["TORCH_HOME"]),
            "pythonpath": os.environ.get("PYTHONPATH"),
            "pickle": os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"),
        }
        with open(told["calls"], "a") as file:
            file.write(json.dumps(call) + "\n")
        print(f"scoring {dimension}")
        does = told.get(dimension, {})
        if "raise" in does:
            raise RuntimeError(does["raise"])
        if "kill" in does:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in does:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            Path(does["hang"]).write_text(str(child.pid))
            time.sleep(600)
        values = does.get("values", [0.5] * len(videos))
        rows = [
            {"video_path": str(video), "video_results": value} for video, value in zip(videos, values, strict=False)
        ]
        text = does.get("text", json.dumps({dimension: [0.123, rows]}))
        (self.output / f"{name}_eval_results.json").write_text(text)
