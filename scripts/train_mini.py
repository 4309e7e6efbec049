"""Train the mini model that ships and the classifier that judges its clips, and score what came of it.

python scripts/train_mini.py ship RUN --seconds 470 --piece 240     # the same again goes on, until all seconds are used
torchrun --nproc-per-node 4 scripts/train_mini.py ship RUN --batch 32 …     # on four GPUs, which share each batch
python scripts/train_mini.py score RUN                              # class and motion of 240 generated clips
python scripts/train_mini.py classifier FOLDER --clips 1200         # the judge of classes, and how often it is right

``ship`` times both kinds of steps first, then plans as many as fit the seconds: RUN/config.json holds what it chose.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from attnbench.clips.judging import FIRST_SEED, judged, save_look, write_score
from attnbench.kernels.errors import AttnbenchError
from attnbench.mini.begin import WEIGHTS
from attnbench.mini.classifier import save_classifier, train_classifier
from attnbench.mini.config import TrainConfig
from attnbench.mini.data import make_clips
from attnbench.mini.flow import Sampler
from attnbench.mini.steps import seconds_a_step
from attnbench.mini.stored import load_mini
from attnbench.mini.train import resume, start
from attnbench.mini.workers import Workers, joined
from attnbench.results.run import NoProgress
from attnbench.results.training import CONFIG

SAMPLERS = (
    Sampler(steps=10),
    Sampler(steps=8, guidance=2.0, guided=4),
    Sampler(steps=8, guidance=3.0, guided=4),
    Sampler(steps=7, guidance=3.0),
    Sampler(steps=10, guidance=3.0),
)
"""From cheap to dear: 10, 12, 12, 14 and 20 forward passes a clip."""
COARSE_CLIPS = (32, 8)
"""Clips a step of a quarter, then of half the frames and side, for each full one."""
SHARES = (0.15, 0.4, 0.45)
"""Of the time: on clips of a quarter, of half and of the full size. What is drawn is learned on those of half."""
SHIP_EMA = 0.998
"""Decay of the averaged weights: over the last fifth of the full clips."""
TIMED = 12
"""Steps of each stage that are timed before as many are planned as fit the seconds."""


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


def planned(config: TrainConfig, seconds: float, device: torch.device, workers: Workers) -> TrainConfig:
    """Return the run with as many steps of each stage as fit ``seconds``; without compiling if that fails."""
    trial = replace(config, coarse=stages([1, 1], config.batch), steps=len(SHARES))
    try:
        costs = [seconds_a_step(trial, step, device, Lines().note, workers, TIMED) for step in range(len(SHARES))]
    except Exception as error:
        if not config.compile or workers.count > 1:
            raise
        print(f"torch.compile failed, so nothing is compiled: {type(error).__name__}: {error}"[:600], flush=True)
        return planned(replace(config, compile=False), seconds, device, workers)
    counts = [max(1, round(share * seconds / cost)) for share, cost in zip(SHARES, costs, strict=True)]
    coarse = stages(counts[:-1], config.batch)
    if workers.leads:
        for count, cost, (_, batch) in zip(counts, costs, (*coarse, (0, config.batch)), strict=True):
            print(f"{count} steps of {batch} clips, {1000 * cost:.1f} ms each", flush=True)
    return replace(config, steps=sum(counts), coarse=coarse, checkpoint_every=sum(counts) // 3 + 1)


def stages(counts: list[int], batch: int) -> tuple[tuple[int, int], ...]:
    """Return coarse stages of so many steps each: two, the last one, or none; ``batch`` is that of full clips."""
    return tuple(zip(counts, [batch * more for more in COARSE_CLIPS[len(COARSE_CLIPS) - len(counts) :]], strict=True))


def ship(options: argparse.Namespace, device: torch.device, workers: Workers) -> None:
    """Begin a run or go on with it for one piece; score it when all steps are done."""
    lines = Lines() if workers.leads else NoProgress()
    if workers.agree((options.folder / CONFIG).exists()):
        done = resume(options.folder, device, lines, options.piece, workers)
    else:
        config = TrainConfig(
            batch=options.batch, seed=options.seed, muon_lr=options.muon_lr, lr=options.lr, compile=options.compile,
            ema=SHIP_EMA,
        )  # fmt: skip
        if options.counts:
            steps = sum(options.counts)
            coarse = stages(options.counts[:-1], config.batch)
            config = replace(config, steps=steps, coarse=coarse, checkpoint_every=steps // 3 + 1)
        else:
            config = planned(config, options.seconds, device, workers)
        done = start(config, options.folder, device, lines, options.piece, workers)
    if not workers.leads:
        return
    print(f"{done.step} of {done.steps} steps done")
    if done.finished:
        score(options, device)


def score(options: argparse.Namespace, device: torch.device) -> None:
    """Choose the cheapest sampler that does well, then judge it on other seeds; the card gets what was found.

    Clips to look at go to look.npy.
    """
    model = load_mini(options.folder / WEIGHTS, device)
    chosen, best = SAMPLERS[0], -1.0
    for sampler in SAMPLERS:
        found, _ = judged(model, sampler, options.clips // 2, 10_000)
        print(f"{sampler}: class {found.class_share}; motion {found.motion_share}", flush=True)
        least = min(found.class_share.value, found.motion_share.value)
        if least > best + 0.01:
            chosen, best = sampler, least
    found, video = judged(model, chosen, options.clips, FIRST_SEED)
    save_look(options.folder, video[:30])
    write_score(options.folder, chosen, found, FIRST_SEED)
    print(f"{chosen}: class {found.class_share}; motion {found.motion_share}")


def judge_classes(options: argparse.Namespace, device: torch.device) -> None:
    """Train the classifier that judges clips, and count the held-out clips whose class it sees."""
    steps = sum(options.counts or [2000])
    model = train_classifier(steps, seed=options.seed, device=device)
    hits = 0
    for first in range(0, options.clips, 60):
        made = make_clips(first, min(60, options.clips - first), seed=11, split="held-out", device=device)
        with torch.no_grad():
            hits += int((model(made.video).argmax(1) == made.label).sum())
    found = {"clips": options.clips, "hits": hits, "seed": 11}
    about = {"steps": steps, "seed": options.seed, "held_out": found}
    save_classifier(model, options.folder / "classifier.safetensors", about)
    print(f"{hits} of {options.clips} held-out clips are seen as what they are")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("ship", "score", "classifier"))
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--piece", type=float, default=240, help="seconds of one call of ship")
    parser.add_argument(
        "--counts",
        type=int,
        nargs="+",
        help="steps of each stage of ship, instead of --seconds; of the classifier",
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--clips", type=int, default=240, help="to judge")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if options.what == "ship":
            with joined(device) as (workers, own):
                ship(options, own, workers)
        else:
            {"score": score, "classifier": judge_classes}[options.what](options, device)
    except AttnbenchError as error:
        print(f"train_mini.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_mini.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
