"""Analyse the mini model over many prompts, several at a time, and write one journal of the means over prompts.

python scripts/analyze_mini.py OUT                         # 60 prompts, all layers and steps, with replaced attention
python scripts/analyze_mini.py OUT --seconds 480           # begins no prompt after that; the same again goes on
python scripts/analyze_mini.py OUT --prompts 6 --no-steps  # fewer prompts; layers are not replaced in single steps
python scripts/analyze_mini.py OUT --method all --density 0.25 --layers 1,4 --steps 3 --no-perturb

Each prompt is a run of its own, in OUT/prompts, whose rows are written as they are measured. At the end OUT has a
journal, and the same packed as analysis-run.jsonl.gz. Copied to docs/, docs/analysis.md is made from it by
``python scripts/write_docs.py``. The journal has those measures that the page and the premises need, without maps and
curves, so that it stays small; ``attnbench analyze`` gives all of them.

Processes are spread over all GPUs that CUDA_VISIBLE_DEVICES shows. They must be of one kind.
"""

from __future__ import annotations

import argparse
import gzip
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch

from attnbench.analysis.call import KINDS, Finding
from attnbench.analysis.cuts import RULES
from attnbench.analysis.perturb import CORRELATION, METRICS
from attnbench.analysis.request import AnalyzeRequest, read_request
from attnbench.analysis.session import over_prompts, rounded, start
from attnbench.cli.lists import read_numbers
from attnbench.kernels.errors import BadInput
from attnbench.machine.command import recorded_as
from attnbench.methods.entries import named
from attnbench.mini.data import CLASSES, DIRECTIONS
from attnbench.mini.flow import usual_sampler
from attnbench.results.journal import JOURNAL
from attnbench.results.load import read
from attnbench.results.premises import judge, premises
from attnbench.results.records.analysis import AnalysisRow
from attnbench.results.run import begin, choose_place
from attnbench.scale.local import chosen_gpus, gpus_here

SHOWN = (
    "entropy", "class_margin", "same_frame_mass", "mass_recall", "mass_recall_worst", "mass_recall_worst_tenth",
    "approximation_error", *(f"cut_recall_{rule}_3d" for rule in RULES),
    *(f"partition_recall_{kind}" for kind in KINDS),
)  # fmt: skip
"""Measures of maps that are kept besides those of the premises."""
TOLD_EVERY = 20.0


def prompts(count: int) -> list[str]:
    """Return prompts in an order in which each class comes once in 15, and each direction about as often as others."""
    every = [
        f"{label} moving {DIRECTIONS[(3 * number + 2 * turn + turn // 4) % len(DIRECTIONS)]}"
        for turn in range(len(DIRECTIONS))
        for number, label in enumerate(CLASSES)
    ]
    return every[:count]


@dataclass
class Told:
    """Prints what a process works on, now and then."""

    name: str
    last: float = 0.0

    def step(self, label: str, done: float, total: float, seconds_left: float | None) -> None:
        """Print what is worked on, unless something was printed a moment ago."""
        if time.monotonic() - self.last > TOLD_EVERY:
            self.last = time.monotonic()
            print(f"  {label} ({done:g} of {total:g})", flush=True)

    def note(self, text: str) -> None:
        """Print a note."""
        print(f"  {self.name}: {text}", flush=True)

    def started(self, folder: str) -> None:
        """Say nothing: prompts are told when they are finished."""


def one(request: AnalyzeRequest, folder: Path, command: Sequence[str], threads: int, until: float) -> float:
    """Analyse a prompt and return the seconds that took; 0 if it is too late to begin."""
    began = time.time()
    if began >= until:
        return 0.0
    torch.set_num_threads(threads)
    with recorded_as(command):
        start(request, folder, Told(request.prompts[0]))
    return time.time() - began


def gpu_numbers(processes: int, device: str | None) -> list[int]:
    """Return the number of the GPU of each process; none on a CPU.

    Raises:
        BadInput: for GPUs of several kinds, whose prompts could not be averaged.
    """
    gpus = [] if device == "cpu" else chosen_gpus(gpus_here(), None)
    return [process % len(gpus) for process in range(processes)] if gpus else []


def take_gpu(numbers: SimpleQueue[int]) -> None:
    """Make the next GPU the one that this process uses."""
    torch.cuda.set_device(numbers.get())


def done(folder: Path) -> bool:
    """Return whether a prompt was analysed to the end; what was begun only is deleted."""
    if not (folder / JOURNAL).is_file():
        return False
    if read(folder).premises:
        return True
    shutil.rmtree(folder)
    return False


def worth_keeping(row: AnalysisRow) -> bool:
    needed = {name for premise in premises() for name in premise.measures}
    scores = tuple(f"{kind}_{metric.name}" for kind in ("clip", "perturbed") for metric in METRICS)
    return row.measure in (*needed, *SHOWN, *scores) or row.measure.startswith(CORRELATION)


def finding(row: AnalysisRow) -> Finding:
    """Return a row as what was found, without its map."""
    own = {each.name: getattr(row, each.name) for each in fields(Finding)}
    return Finding(**{**own, "points": (), "shape": ""})


def merge(request: AnalyzeRequest, folders: dict[str, Path], out: Path, command: Sequence[str]) -> Path:
    """Write the means over the prompts that were analysed, and the premises that they are judged by."""
    found: dict[tuple[object, ...], dict[str, Finding]] = {}
    some: AnalysisRow | None = None
    headers = []
    for prompt, folder in folders.items():
        results = read(folder)
        headers += results.headers
        for row in results.analysis:
            if worth_keeping(row):
                some = row
                which = (row.measure, row.layer, row.head, row.step, row.method, row.settings)
                found.setdefault(which, {})[prompt] = finding(row)
    assert some is not None
    made = {(each.environment.device, each.environment.git_commit, each.environment.git_dirty) for each in headers}
    if len(made) > 1:
        raise BadInput(f"prompts in {str(out)!r} were analysed on several devices or commits: begin in another folder")
    environment = headers[0].environment.model_copy(update={"command": [Path(command[0]).name, *command[1:]]})
    place = choose_place(out)
    asked = request.model_copy(update={"prompts": list(folders)})
    rows = []
    for by_prompt in found.values():
        mean, count = over_prompts(by_prompt)
        own = {each.name: getattr(mean, each.name) for each in fields(Finding)}
        short = {name: rounded(own[name]) for name in ("value", "lo", "hi")}
        rows.append(
            AnalysisRow(
                run_id=place.run_id,
                model=some.model,
                tokens=some.tokens,
                grid=some.grid,
                prompts=count,
                **{**own, **short, "points": []},
            )
        )
    with begin(place, environment, asked.model_dump(mode="json")) as journal:
        journal.append(*rows)
        judged = judge(rows, place.run_id)
        journal.append(*judged)
    for each in judged:
        print(f"{each.premise}: {each.verdict}, {each.value} [{each.lo}, {each.hi}]")
    packed = out / "analysis-run.jsonl.gz"
    packed.write_bytes(gzip.compress((out / JOURNAL).read_bytes(), 9, mtime=0))
    return packed


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the run")
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--steps", action="append", help="of denoising, as 0,2-4; by default all")
    parser.add_argument("--layers", action="append", help="of the model, as 0,2-4; by default all")
    parser.add_argument("--method", action="append", help="whose plans are looked at; by default vmoba")
    parser.add_argument("--density", type=float, default=None, help="of methods and budgets")
    parser.add_argument("--queries", type=int, default=None)
    parser.add_argument("--no-perturb", action="store_true", help="replace no attention")
    parser.add_argument("--no-steps", action="store_true", help="replace layers in all steps only")
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no prompt after so many")
    parser.add_argument("--weights", default=None, help="another mini model than the one that ships")
    parser.add_argument("--device", default=None)
    return parser.parse_args()


def main() -> int:
    asked, began = parse(), time.time()
    command = tuple("OUT" if word == str(asked.out) else word for word in sys.argv)  # where it lay is no one's concern
    until = began + asked.seconds
    every = prompts(asked.prompts)
    steps, layers = read_numbers("--steps", asked.steps), read_numbers("--layers", asked.layers)
    methods = [{"method": entry.method, "settings": entry.settings} for entry in named(asked.method or ["vmoba"])]
    alone = steps if steps is not None else list(range(usual_sampler().steps))

    def request(own: list[str]) -> AnalyzeRequest:
        return read_request(
            model="mini", weights=asked.weights, prompts=own, device=asked.device, queries=asked.queries,
            steps=steps, layers=layers, methods=methods, density=asked.density, seed=0,
            perturb=not asked.no_perturb, perturb_steps=[] if asked.no_perturb or asked.no_steps else alone,
        )  # fmt: skip

    folders = {prompt: asked.out / "prompts" / f"{number:02d}" for number, prompt in enumerate(every)}
    left = [prompt for prompt, folder in folders.items() if not done(folder)]
    threads = max(1, (os.cpu_count() or 1) // asked.processes)
    print(f"{len(every)} prompts, {len(every) - len(left)} done before; {asked.processes} processes", flush=True)
    failed, finished = 0, [prompt for prompt in every if prompt not in left]
    context = multiprocessing.get_context("spawn")
    numbers: SimpleQueue[int] = context.SimpleQueue()
    gpus = gpu_numbers(asked.processes, asked.device)
    for number in gpus:
        numbers.put(number)
    with ProcessPoolExecutor(asked.processes, context, take_gpu if gpus else None, (numbers,) if gpus else ()) as pool:
        running: dict[Future[float], str] = {
            pool.submit(one, request([prompt]), folders[prompt], command, threads, until): prompt for prompt in left
        }
        for future in as_completed(running):
            prompt = running[future]
            try:
                seconds = future.result()
            except Exception as error:
                failed += 1
                print(f"{prompt} failed: {type(error).__name__}: {error}", flush=True)
                continue
            if seconds:
                finished.append(prompt)
                spent = time.time() - began
                print(f"{prompt}: {seconds:.0f} s; {len(finished)} of {len(every)} after {spent:.0f} s", flush=True)
    if not finished:
        return 1
    for name in (JOURNAL, "analysis-run.jsonl.gz"):
        (asked.out / name).unlink(missing_ok=True)
    analysed = {prompt: folders[prompt] for prompt in every if prompt in finished}
    packed = merge(request(every), analysed, asked.out, command)
    print(f"{packed}: {packed.stat().st_size / 1024:.0f} KiB, {len(finished)} of {len(every)} prompts")
    return 1 if failed or len(finished) < len(every) else 0


if __name__ == "__main__":
    sys.exit(main())
