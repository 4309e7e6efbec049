"""Fails as the CUDA wheel does beside a CPU build of torch, until both operators are declared."""

import importlib
import json
import os

import torch

importlib.import_module("torchvision.half")

if not json.loads(os.environ.get("FAKE_VBENCH", "{}")).get("torchvision works"):
    for name in ("nms", "qnms"):
        wanted = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        if ("torchvision", "FRAGMENT", wanted) not in torch.declared:
            raise RuntimeError(f"operator torchvision::{name} does not exist")
