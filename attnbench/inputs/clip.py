"""Turn a video file into a feature vector for each token: decode, patchify on the token grid, standardise."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, pad

from attnbench.inputs.files import open_file
from attnbench.kernels.errors import BadInput, Unsupported
from attnbench.kernels.grid import Grid

FRAME_GROUP = 4
"""Frames of which a token frame is the mean, as in the Wan VAE. The first frame is a token frame by itself."""

CELLS = 4
"""The 16 × 16 pixels of a token are averaged in CELLS × CELLS cells."""

SURROUNDINGS = (5, 13)
"""Widths, in tokens, of the squares over which colour is averaged for context."""

MOST_PIXELS = 2**26
"""In a frame of a video: twice those of 4320p."""

BUNDLED = "big_buck_bunny.mp4"


@contextmanager
def clip_path(path: Path | None) -> Iterator[Path]:
    """Return ``path``, or the path of the bundled excerpt of Big Buck Bunny if None."""
    if path is not None:
        yield path
        return
    with as_file(files("attnbench.inputs.data") / BUNDLED) as bundled:
        yield bundled


def read_frames(path: Path, count: int, height: int, width: int, *, skip: int = 0) -> Iterator[Tensor]:
    """Return ``count`` frames of a video after the first ``skip``, averaged by area: uint8 RGB [height, width, 3] each.

    Frames are turned and mirrored as players show them.

    Raises:
        BadInput: if the file is missing, is not a video, is damaged, has fewer frames, has more than MOST_PIXELS in a
            frame, or is to be shown at an angle other than quarter turns.
        Unsupported: if PyAV is not installed; nothing else needs it.
    """
    try:
        import av
    except ImportError as error:
        raise Unsupported(
            f"PyAV reads videos and cannot be loaded here ({error}): pip install av, or use gaussian inputs"
        ) from error
    done = 0
    try:
        with video_in(path) as (container, stream):
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number < skip:
                    continue
                if frame.is_corrupt:
                    raise BadInput(f"video {str(path)!r} is damaged after frame {done} of the {count} that are needed")
                yield _as_shown(path, frame, height, width)
                done += 1
                if done == count:
                    return
    except (av.FFmpegError, OSError, MemoryError) as error:
        if done:
            raise BadInput(
                f"video {str(path)!r} is damaged after frame {done} of the {count} that are needed"
            ) from error
        raise BadInput(f"video {str(path)!r} cannot be read: missing, truncated, or not a video") from error
    fewer = (done - 1) // FRAME_GROUP * FRAME_GROUP + 1
    instead = f"give a longer video, or at most {fewer} frames" if done else "give another video"
    raise BadInput(f"video {str(path)!r} has {done} frames and {count} are needed: {instead}, or use gaussian inputs")


@contextmanager
def video_in(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open the first picture stream of a video with PyAV: the container and the stream.

    Nothing but the file is opened: a list of other files or addresses is not a video.

    Raises:
        BadInput: if it has no picture stream that can be decoded, or more than MOST_PIXELS in a frame.
        OSError: if it cannot be opened; the errors of FFmpeg are among them or ``av.FFmpegError``.
    """
    import av

    open_file(path).close()  # a named pipe would be waited for
    with av.open(str(path.absolute()), metadata_errors="replace", options={"protocol_whitelist": "file"}) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None or container.format.name in _NO_VIDEOS:
            raise BadInput(f"video {str(path)!r} has no picture stream: give a file such as an .mp4 video")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > MOST_PIXELS:
            raise BadInput(
                f"video {str(path)!r} has frames of {width}x{height} pixels, and more than {MOST_PIXELS:,} are not "
                "read: scale it down"
            )
        yield container, stream


_NO_VIDEOS = ("tty", "hls", "dash", "concat")  # FFmpeg renders text files as video, and follows lists of files


def _as_shown(path: Path, frame: Any, height: int, width: int) -> Tensor:
    """Return a frame, scaled, turned and mirrored as its display matrix says: uint8 RGB [height, width, 3]."""
    a, b, c, d = _display_matrix(frame)
    turned = a == 0 and d == 0
    if not (turned and b and c) and not (b == 0 and c == 0 and a and d):
        raise BadInput(
            f"video {str(path)!r} is to be shown at an angle, and only quarter turns are read: encode it upright"
        )
    high, wide = (width, height) if turned else (height, width)
    picture = torch.from_numpy(
        frame.reformat(width=wide, height=high, format="rgb24", interpolation="AREA").to_ndarray()
    )
    across, down = (c, b) if turned else (a, d)
    flips = [side for side, sign in enumerate((down, across)) if sign < 0]
    return (picture.transpose(0, 1) if turned else picture).flip(flips)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Return a, b, c, d: a pixel at column p and row q is shown at column a·p + c·q and row b·p + d·q."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(data)[:36])
            return a, b, c, d
    return 1, 0, 0, 1


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a video is read: from frame ``skip`` on, mirrored along ``flips`` (1 is height, 2 is width)."""

    skip: int = 0
    flips: tuple[int, ...] = ()


def windows(path: Path, grid: Grid, count: int) -> list[Window]:
    """Return ``count`` windows of a video, as far apart as its length allows; those of a short video are mirrored too.

    The first begins with the video.
    """
    spare = max(0, _frames_in(path) - frames_needed(grid))
    starts = [number * spare // max(1, count - 1) for number in range(count)]
    short = spare < FRAME_GROUP * (count - 1)
    mirrored = ((), (2,), (1,), (1, 2))
    return [Window(skip, mirrored[number % 4] if short else ()) for number, skip in enumerate(starts)]


def _frames_in(path: Path) -> int:
    """Return the number of frames by the container's packets, which need not be decoded; 0 if it cannot be read."""
    import av

    try:
        with video_in(path) as (container, stream):
            return sum(1 for packet in container.demux(stream) if packet.size)
    except (av.FFmpegError, OSError, BadInput):
        return 0


def is_replayed(path: Path | None, grid: Grid) -> bool:
    """Return whether a video is too short for the grid and is played forward and back: the bundled one alone is."""
    if path is not None:
        return False
    with clip_path(None) as bundled:
        return _frames_in(bundled) < frames_needed(grid)


def frames_needed(grid: Grid) -> int:
    """Return the number of frames that make the token frames of a grid."""
    return (grid.t - 1) * FRAME_GROUP + 1


def _there_and_back(path: Path, count: int, height: int, width: int) -> Iterator[Tensor]:
    """Return ``count`` frames of a video: forward, back, and so on. The frames at its ends are not repeated."""
    frames = list(read_frames(path, min(count, _frames_in(path)), height, width))
    turn = max(1, 2 * len(frames) - 2)
    for number in range(count):
        place = number % turn
        yield frames[min(place, turn - place)] if place >= len(frames) else frames[place]


def patches(
    path: Path,
    grid: Grid,
    window: Window = Window(),  # it is frozen
    *,
    replay: bool = False,
) -> Tensor:
    """Return the mean RGB, 0 to 1, of each cell of each token, float32 [T, H, W, CELLS, CELLS, 3].

    Frames are scaled to the token grid whatever their aspect ratio. As in the Wan VAE, the first frame becomes a token
    frame by itself, and each further token frame is the mean of four.

    Args:
        path: of the video.
        grid: of the tokens.
        window: the part that is read.
        replay: play the whole video forward and back, as long as the grid needs.

    Raises:
        BadInput: for the same reasons as ``read_frames``.
    """
    count, height, width = frames_needed(grid), grid.h * CELLS, grid.w * CELLS
    if replay:
        frames = _there_and_back(path, count, height, width)
    else:
        frames = read_frames(path, count, height, width, skip=window.skip)
    groups = [next(frames).float()]
    for _ in range(grid.t - 1):
        groups.append(torch.stack([next(frames) for _ in range(FRAME_GROUP)]).float().mean(dim=0))
    cells = torch.stack(groups).flip(window.flips).reshape(grid.t, grid.h, CELLS, grid.w, CELLS, 3) / 255
    return cells.transpose(2, 3)


def features(cells: Tensor) -> Tensor:
    """Return one content vector per token, float32 [T·H·W, 102], from ``patches``.

    Four groups of features: the token's cells (48 numbers), their change since the token frame before (48; 0 in the
    first), and the mean colour around the token in squares of 5 and of 13 tokens over three token frames (3 each).
    Each feature is standardised over all tokens, and each group has the same total variance.
    """
    grid = cells.shape[:3]
    colour = cells.mean(dim=(3, 4)).movedim(-1, 0)
    around = [_mean_around(colour, size) for size in SURROUNDINGS]
    groups = [cells, cells.diff(dim=0, prepend=cells[:1]), *around]
    return torch.cat([_standardise(group.reshape(grid.numel(), -1)) for group in groups], dim=1)


def _mean_around(colour: Tensor, size: int) -> Tensor:
    """Average ``colour`` [3, T, H, W] over 3 × size × size tokens, fewer at the edges. The result is [T, H, W, 3]."""

    def window(x: Tensor) -> Tensor:
        reach = size // 2
        return avg_pool3d(pad(x, (reach, reach, reach, reach, 1, 1)), (3, size, size), stride=1)

    return (window(colour) / window(torch.ones_like(colour[:1]))).movedim(0, -1)


def _standardise(group: Tensor) -> Tensor:
    """Return columns with mean 0 and equal variances that add up to 1/4. A constant column becomes 0."""
    columns = group.double()
    columns = columns - columns.mean(dim=0)
    spread = columns.square().mean(dim=0).sqrt()
    scale = torch.where(spread > 1e-6, 1 / spread.clamp_min(1e-6), 0) / math.sqrt(4 * group.shape[1])
    return (columns * scale).float()
