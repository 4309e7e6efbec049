"""Train the mini model that ships, compare methods in native training, and score what came of it.

python scripts/train_mini.py ship RUN --seconds 470 --piece 240     # the same again goes on, until all seconds are used
python scripts/train_mini.py native OUT --seconds 60                # full, moba, vmoba, sliding-window, sta in turn
python scripts/train_mini.py score RUN                              # class and motion of 240 generated clips

``ship`` times both kinds of steps first, then plans as many as fit the seconds: RUN/config.json holds what it chose.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from attnbench.kernels.errors import AttnbenchError
from attnbench.mini.config import TrainConfig
from attnbench.mini.train import CONFIG, WEIGHTS, Batch, fresh_state, make_batch, prepare, resume, start, take_step

METHODS = ("full", "moba", "vmoba", "sliding-window", "sta")
COARSE_BATCHES = (256, 64)
"""Clips a step of a quarter, then of half the frames and side."""
SHARES = (0.25, 0.25, 0.5)
"""Of the time: on clips of a quarter, of half and of the full size."""


class Lines:
    """Prints progress: a line every ten seconds, and every remark."""

    def __init__(self) -> None:
        self.last = 0.0

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Show what is worked on."""
        if time.monotonic() - self.last > 10:
            self.last = time.monotonic()
            print(f"  {label}, {seconds_left or 0:.0f} s left", flush=True)

    def note(self, text: str) -> None:
        """Print a remark."""
        print(f"  {text}", flush=True)


def seconds_a_step(config: TrainConfig, step: int, device: torch.device, count: int = 12) -> float:
    """Return the median time of ``count`` steps like the one numbered ``step``, after three that warm up."""
    state = fresh_state(config, device)
    attend = prepare(state, config)
    state.step = step
    times = []
    batch: Batch = make_batch(config, step, device)
    for _ in range(count + 3):
        before = time.perf_counter()
        values = take_step(state, config, batch, attend)
        batch = make_batch(config, step, device)
        torch.stack(values).tolist()
        times.append(time.perf_counter() - before)
    return statistics.median(times[3:])


def planned(config: TrainConfig, seconds: float, device: torch.device) -> TrainConfig:
    """Return the run with as many steps of each stage as fit ``seconds``; without compiling if that fails."""
    stages = len(SHARES) - 1
    trial = replace(config, coarse=tuple((1, batch) for batch in COARSE_BATCHES), steps=len(SHARES))
    try:
        costs = [seconds_a_step(trial, step, device) for step in range(len(SHARES))]
    except Exception as error:
        if not config.compile:
            raise
        print(f"torch.compile failed, so nothing is compiled: {type(error).__name__}: {error}"[:600], flush=True)
        return planned(replace(config, compile=False), seconds, device)
    counts = [max(1, round(share * seconds / cost)) for share, cost in zip(SHARES, costs, strict=True)]
    for count, cost, batch in zip(counts, costs, (*COARSE_BATCHES, config.batch), strict=True):
        print(f"{count} steps of {batch} clips, {1000 * cost:.1f} ms each", flush=True)
    coarse = tuple(zip(counts[:stages], COARSE_BATCHES, strict=True))
    return replace(config, steps=sum(counts), coarse=coarse, checkpoint_every=max(1, counts[-1] // 3))


def ship(options: argparse.Namespace, device: torch.device) -> None:
    """Begin a run or go on with it for one piece; score it when all steps are done."""
    if (options.folder / CONFIG).exists():
        done = resume(options.folder, device, Lines(), options.piece)
    else:
        config = TrainConfig(
            batch=options.batch, seed=options.seed, muon_lr=options.muon_lr, lr=options.lr, compile=options.compile
        )
        if options.counts:
            coarse, steps = options.counts[:-1], sum(options.counts)
            stages = tuple(zip(coarse, COARSE_BATCHES[-len(coarse) :], strict=True)) if coarse else ()
            config = replace(config, steps=steps, coarse=stages, checkpoint_every=steps // 3 + 1)
        else:
            config = planned(config, options.seconds, device)
        done = start(config, options.folder, device, Lines(), options.piece)
    print(f"{done.step} of {done.steps} steps done")
    if done.finished:
        score(options, device)


def native(options: argparse.Namespace, device: torch.device) -> None:
    """Train each method from scratch for the same time, at a rate that does not fall."""
    for method in options.methods:
        for seed in options.seeds:
            folder = options.folder / f"{method}-{seed}"
            if folder.exists():
                continue
            config = TrainConfig(
                method=method, seed=seed, batch=options.batch, muon_lr=options.muon_lr, lr=options.lr,
                steps=100_000, compile=options.compile,
                checkpoint_every=options.every,
            )  # fmt: skip
            try:
                print(f"{method}, seed {seed}", flush=True)
                done = start(config, folder, device, Lines(), options.seconds)
                print(f"{method}, seed {seed}: {done.step} steps", flush=True)
            except AttnbenchError as error:
                print(f"{method}: {error}", flush=True)
            (folder / "checkpoint.safetensors").unlink(missing_ok=True)  # 60 MB that nothing goes on from


def score(options: argparse.Namespace, device: torch.device) -> None:
    """Generate two clips of each class and direction, judge them, and keep thirty to look at."""
    import numpy as np

    from attnbench.mini.classifier import load_classifier
    from attnbench.mini.data import labels_of
    from attnbench.mini.flow import Sampler, generate
    from attnbench.mini.score import score as judge
    from attnbench.mini.weights import load_mini

    model, classifier = load_mini(options.folder / WEIGHTS, device), load_classifier(device=device)
    label, direction = labels_of(0, options.clips)
    sampler = Sampler(steps=options.sampler_steps)
    begun, parts = time.perf_counter(), []
    for rows in torch.arange(options.clips).split(30):
        asked = (label[rows].tolist(), direction[rows].tolist(), (10_000 + rows).tolist())
        parts.append(generate(model, *asked, sampler=sampler, dtype=torch.bfloat16).cpu())
    video = torch.cat(parts)
    found = judge(video.to(device), label, direction, classifier)
    print(f"class {found.class_share}; motion {found.motion_share}; {time.perf_counter() - begun:.0f} s", flush=True)
    wrong = [(int(label[i]), int(direction[i])) for i in range(len(label)) if not found.class_right[i]]
    print(f"wrong classes (class, direction): {wrong}")
    np.save(options.folder / "look.npy", ((video[:30] + 1) * 127.5).round().byte().numpy())
    (options.folder / "score.json").write_text(
        json.dumps(
            {
                "clips": options.clips,
                "sampler": {"steps": sampler.steps, "shift": sampler.shift, "solver": sampler.solver},
                "class": [found.class_share.hits, *found.class_share.interval],
                "motion": [found.motion_share.hits, *found.motion_share.interval],
            }
        )
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("ship", "native", "score"))
    parser.add_argument("folder", type=Path, help="folder of the run, or of the runs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--piece", type=float, default=240, help="seconds of one call of ship")
    parser.add_argument("--counts", type=int, nargs="+", help="steps of each stage of ship, instead of --seconds")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of native")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="of native")
    parser.add_argument("--every", type=int, default=50, help="steps between held-out losses, of native")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--clips", type=int, default=240, help="of score")
    parser.add_argument("--sampler-steps", type=int, default=10, help="of score")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    {"ship": ship, "native": native, "score": score}[options.what](options, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
