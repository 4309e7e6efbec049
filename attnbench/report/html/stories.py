"""What sections of the page say in words: of clips, of training runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnbench.report.data.shares import shares_of
from attnbench.report.gap_words import counted, estimate_words, names_of, skipped_words
from attnbench.report.html.clips_players import Player, players_of
from attnbench.report.words import short_settings
from attnbench.results.gaps import Gap
from attnbench.results.records.cells import Environment
from attnbench.results.records.clips import ClipRow, QualityRow

Clips = Sequence[tuple[Path, ClipRow]]
Name = tuple[str, str, str]
"""Method, settings, engine."""

LEADING = "psnr"
"""The metric that is told first."""

SUBJECT = "mini_class_accuracy"
"""The score that tells whether a clip shows what was asked for."""


@dataclass(frozen=True)
class Scene:
    """A prompt and seed, with a player for each method."""

    title: str
    players: list[Player]


@dataclass(frozen=True)
class ClipsStory:
    """The clips of one run and model in words, and its players.

    Attributes:
        title: what was made.
        device: that it was made on; empty if it was not recorded.
        finding: what was found, in sentences.
        facts: how it was made, by name.
        scenes: prompts and seeds with players.
        left_out: which players are not on the page.
        unplayed: clips of methods for which the run wrote no player.
        lines: of each method its name, settings, PSNR, floors and a plain verdict.
        shares: how many clips show what was asked for: metric, method, share, interval.
        skipped: metrics without a value.
        failed: clips that could not be made.
    """

    title: str
    device: str
    finding: list[str]
    facts: list[tuple[str, str]]
    scenes: list[Scene]
    left_out: str
    unplayed: int
    lines: list[tuple[str, ...]]
    shares: list[tuple[str, str, str, str]]
    skipped: list[str]
    failed: list[str]


def clips_stories(
    rows: Sequence[QualityRow], found: Sequence[Gap], clips: Clips, environments: Mapping[str, Environment]
) -> list[ClipsStory]:
    """Return a story for each run and model that made clips, in order of appearance.

    If stories have the same model and methods, their titles name the settings that differ, or else the run.

    Args:
        rows: metrics of clips.
        found: the gaps that they give.
        clips: the clips, each with the folder that its files are named from.
        environments: of the runs.
    """
    by_key: dict[tuple[str, str], list[QualityRow]] = {}
    for row in rows:
        by_key.setdefault((row.run_id, row.model), []).append(row)
    titles = {key: _title(mine) for key, mine in by_key.items()}
    stories = []
    for key, mine in by_key.items():
        title = titles[key]
        if alike := [other for each, other in by_key.items() if each != key and titles[each] == title]:
            told = names_of([row for other in (mine, *alike) for row in other if row.role == "method"])
            title = _title(mine, told)
            if any(_title(other, told) == title for other in alike):
                title += f", run {key[0]}"
        made = [(folder, clip) for folder, clip in clips if (clip.run_id, clip.model) == key]
        gaps = [gap for gap in found if (gap.run_id, gap.model) == key]
        stories.append(_story(title, mine, gaps, made, environments.get(key[0])))
    return stories


def unplayed_words(stories: Sequence[ClipsStory]) -> str:
    """Say for how many clips runs wrote nothing to play, and what writes it; nothing if there is no such clip."""
    count = sum(story.unplayed for story in stories if not story.scenes)
    if not count:
        return ""
    lead = "Some clips" if any(story.scenes or story.left_out for story in stories) else "The clips"
    told = f"{lead} cannot be played here: for {counted(count, 'clip')} of methods the runs wrote no players."
    return f"{told} attnbench clips writes them beside the journal, unless it is given --players 0."


def plain_verdict(gap: Gap, subject: Gap | None = None) -> str:
    """Say in plain words how far clips moved: nothing to see, visibly different, as different as another seed.

    Args:
        gap: of the leading metric.
        subject: of the score that tells whether a clip shows what was asked for, where there is one.
    """
    if gap.judgement == "indistinguishable":
        return "as close as another exact kernel"
    if gap.judgement == "no floor":
        return "no clips of another kernel to compare with"
    floor, mean = gap.seed_floor, gap.gap.mean
    if floor is not None and floor.lo is not None and floor.hi is not None:
        as_far = mean <= floor.hi if gap.better == "higher" else mean >= floor.lo
        if as_far:
            return "as different as another seed"
    if gap.judgement == "undecided":
        return "more pairs are needed"
    visible = gap.metric == LEADING and mean < 30
    return f"{'visibly' if visible else 'slightly'} different, {_subject_words(subject)}"


def _subject_words(subject: Gap | None) -> str:
    if subject is None:
        return "closer than another seed"
    lost = subject.gap
    if lost.mean >= 0:
        return "same subject"
    found = lost.hi is not None and lost.hi < 0
    return f"subject lost in {-lost.mean:.0%} of the clips{'' if found else ', which may be chance'}"


def _title(rows: Sequence[QualityRow], names: Mapping[Name, str] | None = None) -> str:
    methods = [row for row in rows if row.role == "method"]
    words = dict.fromkeys(names[row.method, row.settings, row.engine] if names else row.method for row in methods)
    return f"Clips of {rows[0].model}: {', '.join(words) or 'full attention'}"


def _story(
    title: str, rows: list[QualityRow], found: Sequence[Gap], clips: Clips, environment: Environment | None
) -> ClipsStory:
    names = names_of([row for row in rows if row.role == "method"])
    keys = list(dict.fromkeys((row.prompt, row.seed) for row in rows if row.role == "method"))
    players, left_out = players_of(clips, keys, names)
    return ClipsStory(
        title=title,
        device=environment.device if environment else "",
        finding=_finding(found),
        facts=_facts(rows, clips, environment),
        scenes=[Scene(f"{prompt}, seed {seed}", mine) for (prompt, seed), mine in players.items() if mine],
        left_out=left_out,
        unplayed=sum(clip.role == "method" and clip.status == "ok" and not clip.player for _, clip in clips),
        lines=[_line(gap, _subject_of(gap, found), names) for gap in found if gap.metric == LEADING],
        shares=_shares(rows, names),
        skipped=skipped_words(rows),
        failed=[
            f"{clip.method}, {clip.prompt}, seed {clip.seed}: {clip.reason}"
            for _, clip in clips
            if clip.status == "failed"
        ],
    )


def _finding(found: Sequence[Gap]) -> list[str]:
    """Return what the first metric says about each method. Scores are used if there is no distance."""
    leading = [gap for gap in found if gap.metric == LEADING] or [gap for gap in found if gap.kind == "distance"]
    chosen = leading or list(found)
    if not chosen:
        return ["No metric has a value."]
    return [f"{gap.sentence}." for gap in chosen if gap.metric == chosen[0].metric]


def _subject_of(gap: Gap, found: Sequence[Gap]) -> Gap | None:
    """Return what the same clips say of their subject."""
    scores = {(each.method, each.settings, each.engine): each for each in found if each.metric == SUBJECT}
    return scores.get((gap.method, gap.settings, gap.engine))


def _line(gap: Gap, subject: Gap | None, names: Mapping[Name, str]) -> tuple[str, ...]:
    return (
        names[gap.method, gap.settings, gap.engine], short_settings(gap.settings, 120), estimate_words(gap.gap),
        estimate_words(gap.kernel_floor), estimate_words(gap.seed_floor), plain_verdict(gap, subject),
    )  # fmt: skip


def _facts(rows: Sequence[QualityRow], clips: Clips, environment: Environment | None) -> list[tuple[str, str]]:
    first = rows[0]
    prompts = list(dict.fromkeys(row.prompt for row in rows))
    seeds = sorted({row.seed for row in rows if row.role in ("method", "exact")})
    facts = [
        ("Clips", f"{counted(first.frames, 'frame')} of {first.size.replace('x', ' × ')}, {first.fps:g} a second"),
        ("Prompts", prompts[0] if len(prompts) == 1 else f"{len(prompts)}, such as “{prompts[0]}”"),
        ("Seeds", ", ".join(map(str, seeds)) if len(seeds) < 9 else f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"),
    ]
    run = [clip for _, clip in clips if clip.role == "method"] or [clip for _, clip in clips]
    if run:
        clip = run[0]
        layers = f"; layers {', '.join(map(str, clip.dense_layers))} always" if clip.dense_layers else ""
        facts += [
            ("Denoising steps", f"{clip.steps}{_dense(clip.dense_steps)}{layers}"), ("Number format", clip.dtype),
            ("Weights", clip.weights),
        ]  # fmt: skip
    exact = next((row.engine for row in rows if row.role == "exact"), None) or next(
        (clip.engine for _, clip in clips if clip.role == "exact"), None
    )
    floor = next((row.engine for row in rows if row.role == "kernel-floor"), None)
    facts += [
        ("Full attention", exact or ""), ("Kernel floor", floor or "none"),
        ("Device", environment.device if environment else ""), ("Run", first.run_id),
    ]  # fmt: skip
    return [(name, value) for name, value in facts if value]


def _dense(steps: int) -> str:
    if steps == 0:
        return ", none of them dense"
    return f", of which the first {'is' if steps == 1 else f'{steps} are'} dense"


def _shares(rows: Sequence[QualityRow], names: Mapping[Name, str]) -> list[tuple[str, str, str, str]]:
    """Return metric, method, count and interval of scores that are 1 or 0."""
    return [
        (each.metric, each.name, f"{each.right} of {each.clips}", f"[{each.lo:.0%}, {each.hi:.0%}]")
        for each in shares_of(rows, names)
    ]
