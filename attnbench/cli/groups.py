"""How the help of the command line is divided."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COMMAND_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Measure": ("run", "profile", "step", "sweep", "calibrate"),
        "Show and compare": ("report", "repro", "compare", "gate", "history"),
        "Models and clips": ("analyze", "clips", "capture", "train", "vbench"),
        "Look things up": ("flops", "ls", "show", "check", "doctor"),
    }
)
"""The commands of each group, in the order of the help."""

_OPTION_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "What is asked for": (
            "--paper", "--check", "--over", "--points", "--from", "--to", "--count", "--method", "--set", "--res",
            "--frames", "--text-tokens", "--model",
            "--models", "--grid", "--batch", "--heads", "--kv-heads", "--head-dim", "--layers", "--density", "--head",
            "--steps", "--dtype",
            "--direction", "--inputs", "--seed", "--prompt", "--prompts", "--fps", "--dimension", "--classes",
            "--seeds", "--sampler-steps",
            "--dense-steps", "--dense-layers", "--metric", "--weights", "--height", "--width", "--guidance",
            "--video-only", "--checkpointing", "--graphs", "--queries", "--block", "--perturb", "--perturb-steps",
        ),
        "How it is trained": (
            "--train-steps", "--seconds", "--coarse", "--dense-coarse", "--coarse-from", "--full-seconds", "--as-layer",
            "--muon-lr", "--lr", "--ema", "--warmup", "--held-out", "--checkpoint-every", "--compile", "--judge",
        ),
        "Where it runs": (
            "--engine", "--strict", "--floor-engine", "--device", "--isolate", "--in-process", "--env", "--python",
            "--timeout", "--allow-pickle", "--gpus", "--parallel", "--on",
        ),
        "How it is timed": (
            "--rounds", "--budget", "--timer", "--cell-timeout", "--precision", "--stability-calls", "--repeats",
            "--trace", "--run", "--end-to-end", "--runs", "--delays", "--minutes", "--in-turns",
            "--run-by-run",
        ),
        "How it is judged": (
            "--baseline", "--against", "--update", "--accept", "--threshold", "--margin", "--noise", "--allow-missing",
            "--allow-engine", "--fail-ambiguous", "--curves", "--pool",
        ),
        "Suites": ("--suite", "--only", "--dry-run"),
        "Output": (
            "--format", "--compare", "--table", "--figures", "--figure-width", "--out", "--resume", "--vbench",
            "--gallery", "--players", "--install", "--open", "--markdown", "--junit", "--json", "--quiet",
        ),
    }
)  # fmt: skip


def group_of_command(name: str) -> str | None:
    """Return the heading of a command in the help of all; None for one that is in no group."""
    return next((group for group, names in COMMAND_GROUPS.items() if name in names), None)


def place_of_option(word: str) -> int:
    """Return the place of an option's group in the help: those of no group come first."""
    return next((place for place, words in enumerate(_OPTION_GROUPS.values(), 1) if word in words), 0)


def group_of_option(word: str) -> str | None:
    """Return the heading of an option, by its long name, in the help of a command; None for the general one."""
    return next((group for group, words in _OPTION_GROUPS.items() if word in words), None)
