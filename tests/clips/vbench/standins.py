"""Random weights where the published ones would lie, each marked as a stand-in. A script for VBench's environment.

``python -P standins.py WORKER FOLDER DIMENSION...``: WORKER is attnbench's worker script, FOLDER the weights folder.
Networks have their real architecture, but for CLIP's text side, which no dimension here uses.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DINO_ENTRY = '''
import timm
import torch

dependencies = ["torch"]


def dino_vitb16(pretrained=True, **kwargs):
    """Ignores every other argument, as the entry point of the real repository does."""
    model = timm.create_model("vit_base_patch16_224", num_classes=0, dynamic_img_size=True, dynamic_img_pad=True)
    if pretrained:
        address = "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
        model.load_state_dict(torch.hub.load_state_dict_from_url(url=address, map_location="cpu"), strict=True)
    return model
'''


def placed(folder: Path, name: str) -> Path:
    """Return where a file of weights belongs, its folder made and its marker set."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".stand-in").touch()
    return path


def viclip(torch: Any, folder: Path) -> None:
    """Overall consistency: half precision, as 428 M parameters take 1.7 GB else."""
    made = importlib.import_module("vbench.third_party.ViCLIP.viclip")
    tokens = importlib.import_module("vbench.third_party.ViCLIP.simple_tokenizer")
    model = made.ViCLIP(tokenizer=tokens.SimpleTokenizer(), pretrain=None)
    with torch.no_grad():
        for parameter in model.parameters():  # some are made of memory as it was found
            if parameter.ndim > 1:
                parameter.normal_(0, 0.02)
    state = {name: value.half() for name, value in model.state_dict().items()}
    torch.save({"model": state}, placed(folder, "ViCLIP/ViClip-InternVid-10M-FLT.pth"))


def raft(torch: Any, folder: Path) -> None:
    """Dynamic degree: names begin with ``module.``, as those of the real file do."""
    edict = importlib.import_module("easydict").EasyDict
    made = importlib.import_module("vbench.third_party.RAFT.core.raft")
    model = made.RAFT(edict(small=False, mixed_precision=False, alternate_corr=False))
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save(state, placed(folder, "raft_model/models/raft-things.pth"))


def clip(torch: Any, folder: Path) -> None:
    """Background consistency: a JIT archive, as the real file is."""
    made = importlib.import_module("clip.model")
    model = made.CLIP(512, 224, 12, 768, 32, 77, 512, 64, 1, 1).eval()
    example = (torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long))
    torch.jit.trace(model, example).save(str(placed(folder, "clip_model/ViT-B-32.pt")))


def musiq(torch: Any, folder: Path) -> None:
    """Imaging quality."""
    model = importlib.import_module("pyiqa.archs.musiq_arch").MUSIQ(pretrained=False)
    torch.save(model.state_dict(), placed(folder, "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"))


def dino(torch: Any, folder: Path) -> None:
    """Subject consistency: a repository with one entry point, and its checkpoint."""
    repository = placed(folder, "dino_model/facebookresearch_dino_main")
    repository.mkdir(exist_ok=True)
    (repository / "hubconf.py").write_text(DINO_ENTRY, encoding="utf-8")
    model = importlib.import_module("timm").create_model("vit_base_patch16_224", num_classes=0)
    torch.save(model.state_dict(), placed(folder, "dino_model/dino_vitbase16_pretrain.pth"))


def amt(torch: Any, folder: Path) -> None:
    """Motion smoothness."""
    build = importlib.import_module("vbench.third_party.amt.utils.build_utils").build_from_cfg
    configs = Path(importlib.import_module("vbench").__file__ or "").parent / "third_party" / "amt" / "cfgs"
    config = importlib.import_module("omegaconf").OmegaConf.load(configs / "AMT-S.yaml")
    torch.save({"state_dict": build(config.network).state_dict()}, placed(folder, "amt_model/amt-s.pth"))


MAKERS: dict[str, Callable[[Any, Path], None]] = {
    "overall_consistency": viclip,
    "dynamic_degree": raft,
    "background_consistency": clip,
    "imaging_quality": musiq,
    "subject_consistency": dino,
    "motion_smoothness": amt,
}


def main(worker_file: str, folder: str, *dimensions: str) -> None:
    """Make the weights of some dimensions."""
    spec = importlib.util.spec_from_file_location("worker", worker_file)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    worker.import_torchvision()
    worker.place_vocabulary()
    torch = importlib.import_module("torch")
    for name in dimensions:
        torch.manual_seed(0)
        MAKERS[name](torch, Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
