"""Train the mini model that ships, compare methods in native training, and score what came of it.

python scripts/train_mini.py ship RUN --seconds 470 --piece 240     # the same again goes on, until all seconds are used
torchrun --nproc-per-node 4 scripts/train_mini.py ship RUN --batch 32 …     # on four GPUs, which share each batch
python scripts/train_mini.py coarse OUT --counts 1000 2500 --seeds 0 1 2            # what the next line begins with
python scripts/train_mini.py native OUT --counts 1000 2500 --seeds 0 1 2 --seconds 60   # methods in turn, or --methods
python scripts/train_mini.py score RUN                              # class and motion of 240 generated clips
python scripts/train_mini.py classifier FOLDER --clips 1200         # the judge of classes, and how often it is right

``ship`` times both kinds of steps first, then plans as many as fit the seconds: RUN/config.json holds what it chose.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnbench.clips.recording import Recording
from attnbench.kernels.errors import AttnbenchError, BadInput
from attnbench.methods.registry import find_method
from attnbench.mini.batch import Batch, make_batch
from attnbench.mini.begin import WEIGHTS
from attnbench.mini.checkpoint import CHECKPOINT
from attnbench.mini.classifier import load_classifier, save_classifier, train_classifier
from attnbench.mini.coarse import taken_over
from attnbench.mini.config import TrainConfig
from attnbench.mini.data import labels_of, make_clips
from attnbench.mini.flow import Sampler, generate, usual_sampler
from attnbench.mini.gradients import WARM_UP
from attnbench.mini.model import FULL, Attend, MiniTransformer, attend_by
from attnbench.mini.score import Score
from attnbench.mini.score import score as judge
from attnbench.mini.stored import load_mini
from attnbench.mini.train import Trained, fresh_state, prepare, resume, start, take_step
from attnbench.mini.workers import ALONE, Workers, joined
from attnbench.results.files import write_whole
from attnbench.results.run import NoProgress
from attnbench.results.training import CARD, CONFIG

_PARTITION = (1, (8, 4), (4, 8, 4))
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "moba": {"method": "moba", "settings": {"block_size": 128, "topk": 14}},
    "vmoba": {"method": "vmoba", "settings": {"partition": _PARTITION}},
    "sliding-window": {"method": "sliding-window"},
    "sta": {"method": "sta", "settings": {"tile": (8, 4, 4), "window": (1, 3, 5)}},
    "vmoba-1d": {"method": "vmoba", "settings": {"partition": _PARTITION}, "as_layer": 0},
    "vmoba-2d": {"method": "vmoba", "settings": {"partition": _PARTITION}, "as_layer": 1},
    "vmoba-3d": {"method": "vmoba", "settings": {"partition": _PARTITION}, "as_layer": 2},
    "vmoba-local": {"method": "vmoba", "settings": {"partition": _PARTITION, "scope": "query"}},
    "vmoba-topk": {"method": "vmoba", "settings": {"partition": _PARTITION, "select": "topk", "topk": (2, 6, 12)}},
}
"""What native training compares: about a fifth of the pairs of 8 × 32 × 32 tokens, in blocks and tiles that divide this
grid and hold 128 tokens or a multiple. The defaults would make MoBA's 137 tokens and VMoBA's third kind 132: two steps
of the kernels each, the second nearly empty."""
METHODS = tuple(VARIANTS)[:5]
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
SHIP_EMA, NATIVE_EMA = 0.998, 0.995
"""Decay of the averaged weights: over the last fifth of the full clips, and over 200 steps at a constant rate."""


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


def seconds_a_step(
    config: TrainConfig, step: int, device: torch.device, workers: Workers = ALONE, count: int = 12
) -> float:
    """Return the median time of ``count`` steps like the one numbered ``step``, after some that warm up."""
    state = fresh_state(config, device)
    _, gradients = prepare(state, config, device, Lines().note, workers)
    state.step = step
    times = []
    batch: Batch = make_batch(config, step, device, workers)
    for _ in range(count + WARM_UP + 1):
        before = time.perf_counter()
        values = take_step(state, config, batch, gradients, workers)
        batch = make_batch(config, step, device, workers)
        torch.stack(values).tolist()
        times.append(time.perf_counter() - before)
    return workers.agree(statistics.median(times[-count:]))


def planned(config: TrainConfig, seconds: float, device: torch.device, workers: Workers) -> TrainConfig:
    """Return the run with as many steps of each stage as fit ``seconds``; without compiling if that fails."""
    trial = replace(config, coarse=stages([1, 1], config.batch), steps=len(SHARES))
    try:
        costs = [seconds_a_step(trial, step, device, workers) for step in range(len(SHARES))]
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


def native_config(options: argparse.Namespace, name: str, seed: int) -> TrainConfig:
    """Return a variant's run: a rate that does not fall, and full attention on coarse clips."""
    return TrainConfig(
        **VARIANTS[name], seed=seed, batch=options.batch, muon_lr=options.muon_lr, lr=options.lr, steps=100_000,
        coarse=stages(options.counts or [], options.batch), dense_coarse=True, compile=options.compile,
        checkpoint_every=options.every, ema=NATIVE_EMA,
    )  # fmt: skip


def coarse(options: argparse.Namespace, device: torch.device) -> None:
    """Take the coarse stages, which all variants of a seed share, in folders OUT/coarse/<seed>, or go on with them."""
    for seed in options.seeds:
        config = native_config(options, "full", seed)
        if not config.coarse:
            raise BadInput("coarse needs --counts, the steps of the coarse stages")
        config = replace(config, steps=config.coarse_steps, checkpoint_every=config.coarse_steps)
        folder = options.folder / "coarse" / str(seed)
        if (folder / CONFIG).exists():
            done = resume(folder, device, Lines())
        else:
            warm_up(config, device)
            done = start(config, folder, device, Lines())
        stop_if_interrupted(done)


def native(options: argparse.Namespace, device: torch.device) -> None:
    """Train each variant on full clips for the same time, and judge its clips. Finished runs are left as they are.

    A run is made in OUT/unfinished and moved when it is judged, so that none that was stopped is taken for another.
    """
    for name in options.methods:
        missing = [seed for seed in options.seeds if not (options.folder / f"{name}-{seed}").exists()]
        for seed in missing:
            config = native_config(options, name, seed)
            folder = options.folder / "unfinished" / f"{name}-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            shared = partial(taken_over, options.folder / "coarse" / str(seed)) if config.coarse else None
            if shared is not None:
                shared(config)  # to be told before all is compiled
            if seed == missing[0]:
                warm_up(config, device)
            done = start(config, folder, device, Lines(), options.seconds, first=shared)
            print(f"{name}, seed {seed}: {done.step} steps", flush=True)
            stop_if_interrupted(done)
            if options.clips:
                judge_native(config, folder, options.clips, device)
            (folder / CHECKPOINT).unlink()  # 50 MB that nothing goes on from
            folder.rename(options.folder / f"{name}-{seed}")


def stop_if_interrupted(done: Trained) -> None:
    """Raise KeyboardInterrupt after a run that Ctrl-C stopped."""
    if done.interrupted:
        raise KeyboardInterrupt


def warm_up(config: TrainConfig, device: torch.device) -> None:
    """Take some steps of another run, so that all is compiled before the time of this one begins."""
    begins = list(accumulate((count for count, _ in config.coarse), initial=0))
    steps = begins[-1:] if config.steps > config.coarse_steps else begins[:-1]
    found = ", ".join(f"{1000 * seconds_a_step(config, step, device):.1f}" for step in steps)
    print(f"{config.method}: a step of each stage takes {found} ms", flush=True)


def judge_native(config: TrainConfig, folder: Path, clips: int, device: torch.device) -> None:
    """Judge clips that a run's weights make with its own attention in every step and layer."""
    recording = Recording(find_method(config.method), config.engine)
    attend = attend_by(recording.method, config.engine, as_layer=config.as_layer, **config.settings)
    model = load_mini(folder / WEIGHTS, device)
    found, video = judged(model, usual_sampler(), clips, 20_000, device, attend)
    save_look(folder, video[:15])
    densities = [each for each in recording.densities(model.config.layers) if each is not None]
    write_score(folder, usual_sampler(), found, density=statistics.fmean(densities), engine=recording.engines)


def score(options: argparse.Namespace, device: torch.device) -> None:
    """Choose the cheapest sampler that does well, then judge it on other seeds; the card gets what was found.

    Clips to look at go to look.npy.
    """
    model = load_mini(options.folder / WEIGHTS, device)
    chosen, best = SAMPLERS[0], -1.0
    for sampler in SAMPLERS:
        found, _ = judged(model, sampler, options.clips // 2, 10_000, device)
        least = min(found.class_share.value, found.motion_share.value)
        if least > best + 0.01:
            chosen, best = sampler, least
    found, video = judged(model, chosen, options.clips, 20_000, device)
    save_look(options.folder, video[:30])
    write_score(options.folder, chosen, found)


def save_look(folder: Path, video: torch.Tensor) -> None:
    """Save clips [B, 3, F, H, W] from -1 to 1 as they are shown, uint8, for ``attnbench clips --gallery``."""
    np.save(folder / "look.npy", ((video + 1) * 127.5).round().byte().numpy())


def write_score(folder: Path, sampler: Sampler, found: Score, **more: object) -> None:
    """Add to a card how many clips show and do what was asked, and ``more`` about them."""
    card = folder / CARD
    about = {
        "clips": found.class_share.count,
        "first_seed": 20_000,
        "sampler": asdict(sampler),
        "class": [found.class_share.hits, *found.class_share.interval],
        "motion": [found.motion_share.hits, *found.motion_share.interval],
        "wrong_class": (~found.class_right).nonzero().flatten().tolist(),
        "wrong_motion": (~found.motion_right).nonzero().flatten().tolist(),
        **more,
    }
    write_whole((json.dumps({**json.loads(card.read_text()), "score": about}, indent=1) + "\n").encode(), card, "")


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


def judged(
    model: MiniTransformer, sampler: Sampler, count: int, seed: int, device: torch.device, attend: Attend = FULL
) -> tuple[Score, torch.Tensor]:
    """Return the score of clips of every class and direction in turn, with seeds from ``seed``, and the clips."""
    label, direction = labels_of(0, count)
    begun, parts = time.perf_counter(), []
    for rows in torch.arange(count).split(30):
        asked = (label[rows].tolist(), direction[rows].tolist(), (seed + rows).tolist())
        parts.append(generate(model, *asked, sampler=sampler, attend=attend, dtype=torch.bfloat16).cpu())
    video = torch.cat(parts)
    found = judge(video.to(device), label, direction, load_classifier(device=device))
    seconds = time.perf_counter() - begun
    print(f"{sampler}, seeds from {seed}: class {found.class_share}; motion {found.motion_share}; {seconds:.0f} s")
    return found, video


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("ship", "coarse", "native", "score", "classifier"))
    parser.add_argument("folder", type=Path, help="folder of the run, or of the runs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--piece", type=float, default=240, help="seconds of one call of ship")
    parser.add_argument(
        "--counts",
        type=int,
        nargs="+",
        help="steps of each stage of ship, instead of --seconds; of the coarse stages of coarse and native",
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of coarse and native")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=VARIANTS, help="of native")
    parser.add_argument("--every", type=int, default=50, help="steps between held-out losses, of native")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--clips", type=int, default=240, help="to judge; 0 leaves it out in native")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if options.what == "ship":
            with joined(device) as (workers, own):
                ship(options, own, workers)
        else:
            {"coarse": coarse, "native": native, "score": score, "classifier": judge_classes}[options.what](
                options, device
            )
    except AttnbenchError as error:
        print(f"train_mini.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("train_mini.py: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
