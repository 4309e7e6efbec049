"""Draw what a plan keeps on a small grid: the whole mask, and the keys of one query frame by frame."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from attnbench.kernels.errors import BadInput
from attnbench.kernels.grid import Grid, Layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from attnbench.kernels.plan import Plan

MAX_TOKENS = 4096
MOST_PIXELS = 768

KEPT, DROPPED, QUERY, INK = "#0b4f8a", "#eef1f4", "#d55e00", "#3b4552"
SHADES = " ░▒▓█"
ASCII_SHADES = " .:+#"
CELLS = {"kept": "██", "dropped": "··", "query": "◆◆"}
ASCII_CELLS = {"kept": "##", "dropped": "..", "query": "@@"}


def middle_query(layout: Layout) -> int:
    """Return the sequence position of the token in the middle of the video."""
    t, h, w = (side // 2 for side in layout.grid.shape)
    return layout.text[0] + (t * layout.grid.h + h) * layout.grid.w + w


def keys_of(mask: Tensor, layout: Layout, query: int) -> Tensor:
    """Return the video keys that ``query`` keeps, bool [T, H, W]; ``mask`` is bool [N, N] in grid order."""
    _check(mask, layout)
    return mask[query, layout.video].reshape(layout.grid.shape)


def local_density(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Return the fraction kept in each of rows × columns nearly equal rectangles of ``mask``, float32."""
    return _pool(_pool(mask.float(), rows).T, columns).T


def mask_text(mask: Tensor, width: int = 64, *, shades: str = SHADES) -> str:
    """Return bool [N, M] ``mask`` as lines of at most ``width`` characters, darker where more pairs are kept.

    ``shades`` goes in equal steps from nothing kept to nearly everything kept. Only an empty rectangle is blank. A
    character is assumed to be twice as high as wide.
    """
    columns = min(width, 2 * mask.shape[1])
    rows = max(1, round(columns * mask.shape[0] / mask.shape[1] / 2))
    density = local_density(mask, min(rows, mask.shape[0]), min(columns, mask.shape[1]))
    if columns > mask.shape[1]:
        density = density.repeat_interleave(2, dim=1)[:, :columns]
    level = torch.ceil(density * (len(shades) - 1) - 1e-9).long()
    return "\n".join("".join(shades[i] for i in row) for row in level.tolist())


def panels_text(keys: Tensor, query: tuple[int, int, int], width: int = 80, *, cells: dict[str, str] = CELLS) -> str:
    """Return the kept keys [T, H, W] of the token ``query`` as small pictures of the frames, side by side in ``width``.

    Frames that are too wide for ``width`` are drawn with one character for each key, and cut off with "…" if that is
    still too wide.
    """
    frames, height, wide = keys.shape
    size = 2 if 2 * wide <= width else 1
    shown = min(wide, width // size)
    mark = {name: cell[:size] for name, cell in cells.items()}

    def line(t: int, h: int) -> str:
        row = [
            mark["query"] if (t, h, w) == query else mark["kept" if keys[t, h, w] else "dropped"] for w in range(wide)
        ]
        return "".join(row) if shown == wide else "".join(row[: shown - 1]) + "…"

    across = max(1, (width + 2) // (shown * size + 2))
    blocks = []
    for first in range(0, frames, across):
        group = range(first, min(first + across, frames))
        title = "  ".join(f"frame {t}"[: shown * size].ljust(shown * size) for t in group).rstrip()
        blocks.append("\n".join([title, *("  ".join(line(t, h) for t in group) for h in range(height))]))
    return "\n\n".join(blocks)


def mask_figure(mask: Tensor, title: str, grid: Grid, text: tuple[int, int] = (0, 0)) -> Figure:
    """Draw bool [N, N] ``mask`` (grid order) beside the keys that the middle query keeps, one panel for each frame.

    Raises:
        BadInput: if ``mask`` is not [N, N] for the grid and text tokens, or N is over 4,096.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = Layout(grid, text)
    _check(mask, layout)
    query = middle_query(layout)
    engine = ConstrainedLayoutEngine(wspace=0.04, w_pad=0.06, h_pad=0.06)
    figure = Figure(figsize=(7.8, 4.0), dpi=100, facecolor="white", layout=engine)
    figure.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold", color=INK)
    left, right = figure.subfigures(1, 2, width_ratios=(1.0, 1.12), squeeze=False)[0]
    _draw_whole(left.subplots(), mask, layout, query)
    _draw_panels(right, keys_of(mask, layout, query), layout, query)
    return figure


def draw_plan(plan: Plan, title: str, head: int = 0) -> Figure:
    """Draw one head of a plan; see ``mask_figure``. ``title`` is followed by the plan's density.

    Raises:
        BadInput: if the plan has no such head, or is over 4,096 tokens.
    """
    check_small(plan.layout)
    masks = plan.token_mask()[0]
    if not 0 <= head < masks.shape[0]:
        raise BadInput(f"head {head} is not one of the plan's {masks.shape[0]} heads, counted from 0")
    mask = masks[head]
    title = f"{title} – density {mask.double().mean().item():.3g}"
    return mask_figure(mask, title, plan.layout.grid, plan.layout.text)


def png_bytes(figure: Figure, dpi: int = 160) -> bytes:
    """Return ``figure`` as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg_bytes(figure: Figure) -> bytes:
    """Return ``figure`` as an SVG file; equal figures give equal bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "attnbench", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def check_small(layout: Layout) -> None:
    """Raise BadInput if a picture of all pairs of tokens would be too large to draw or to read."""
    if layout.tokens > MAX_TOKENS:
        raise BadInput(
            f"grid {layout.grid} has {layout.tokens:,} tokens: a mask is drawn token by token, "
            f"so give a grid of at most {MAX_TOKENS:,} tokens, as 6x8x12"
        )


def _check(mask: Tensor, layout: Layout) -> None:
    check_small(layout)
    if mask.dtype != torch.bool or tuple(mask.shape) != (layout.tokens, layout.tokens):
        raise BadInput(
            f"mask is {mask.dtype} {list(mask.shape)}; for grid {layout.grid} and text {layout.text} "
            f"it must be bool [{layout.tokens}, {layout.tokens}]"
        )


def _pool(values: Tensor, parts: int) -> Tensor:
    """Average ``values`` [R, C] over ``parts`` nearly equal groups of rows."""
    sizes = (torch.arange(parts + 1) * values.shape[0] // parts).diff()
    total = values.new_zeros(parts, values.shape[1]).index_add_(0, torch.repeat_interleave(sizes), values)
    return total / sizes[:, None]


def _draw_whole(axes: Axes, mask: Tensor, layout: Layout, query: int) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    n, frame = layout.tokens, layout.grid.h * layout.grid.w
    colours = LinearSegmentedColormap.from_list("kept", [DROPPED, KEPT])
    size = min(n, MOST_PIXELS)
    axes.imshow(local_density(mask.cpu(), size, size).numpy(), cmap=colours, vmin=0, vmax=1, extent=(0, n, n, 0))
    starts = [layout.text[0] + t * frame for t in range(layout.grid.t)]
    edges = sorted({0, *starts, starts[-1] + frame, n})
    for edge in edges[1:-1] if len(edges) <= 34 else []:
        axes.axhline(edge, color="white", linewidth=0.6, alpha=0.8)
        axes.axvline(edge, color="white", linewidth=0.6, alpha=0.8)
    axes.axhline(query + 0.5, color=QUERY, linewidth=1.2)
    every = max(1, -(-layout.grid.t // 8))
    ticks = [(starts[t] + frame / 2, str(t)) for t in range(0, layout.grid.t, every)]
    for start, count in ((0, layout.text[0]), (layout.video.stop, layout.text[1])):
        ticks += [(start + count / 2, "text")] if count else []
    places, names = [place for place, _ in ticks], [name for _, name in ticks]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    axes.set_xlabel("key token, by frame")
    axes.set_ylabel("query token, by frame")
    title = "all pairs: kept dark, dropped light" if size == n else "all pairs: the darker, the more are kept"
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    _calm(axes)


def _draw_panels(figure: SubFigure, keys: Tensor, layout: Layout, query: int) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    frames, height, width = keys.shape
    rows, columns = _panel_rows(frames, height, width)
    figure.suptitle("keys that one query (orange) keeps, frame by frame", fontsize=10, color=INK, x=0.02, ha="left")
    place = query - layout.text[0]
    at = (place // (height * width), place // width % height, place % width)
    colours = ListedColormap([DROPPED, KEPT])
    lines = columns * width <= 48
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for t, axes in enumerate(panels):
        if t >= frames:
            axes.set_visible(False)
            continue
        axes.pcolormesh(
            keys[t].cpu().numpy(), cmap=colours, vmin=0, vmax=1, edgecolors="white" if lines else "none", linewidth=0.5
        )
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"frame {t}", fontsize=8, color=INK, pad=2)
        if t == at[0]:
            own = QUERY if keys[at] else DROPPED
            axes.add_patch(Rectangle((at[2], at[1]), 1, 1, facecolor=own, edgecolor=QUERY, linewidth=1.6))
        _calm(axes)


def _panel_rows(frames: int, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns that show the frames largest in a box a little wider than high."""

    def scale(columns: int) -> float:
        rows = -(-frames // columns)
        return min(4.0 / columns / width, 3.2 / rows / (height + 1.0))

    columns = max(range(1, frames + 1), key=scale)
    return -(-frames // columns), columns


def _calm(axes: Axes) -> None:
    axes.tick_params(length=0, labelsize=8, colors=INK)
    axes.xaxis.label.set(color=INK, fontsize=9)
    axes.yaxis.label.set(color=INK, fontsize=9)
    for spine in axes.spines.values():
        spine.set(color="#c3cad2", linewidth=0.6)
