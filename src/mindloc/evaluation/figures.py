"""Two PNG files that illustrate the scores.

The contact sheet shows some queries with their first answers, correct ones green, wrong ones red, and a correct one if
the first is wrong. The distance curve shows the fraction of queries answered within x meters, also for the baselines.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mindloc.data.images import read_image

ANSWERS = 5
_TILE_PX = 208
_FRAME_PX = 7
_GAP_PX = 16
_MARGIN_PX = 28
_HEADER_PX = 84
_SUBTITLE_PX = 20  # between two lines of the subtitle
_CAPTION_PX = 62
_INK, _SOFT, _PAPER, _BLANK = "#1b1f24", "#667079", "#ffffff", "#e3e6e9"
_RIGHT, _WRONG, _QUERY = "#1a9850", "#d73027", "#1b1f24"


@dataclass(frozen=True)
class SheetAnswer:
    """A reference image on the contact sheet."""

    path: Path
    right: bool
    distance_m: float | None  # from the query's place to this image's center; NaN: unknown here, None: for all
    score: float
    overlaps: bool = False  # a semi-positive, which counts as wrong in mode pos
    recall_rank: int | None = None  # in stage one; None if there is only one stage
    score_name: str = "cosine"


@dataclass(frozen=True)
class SheetRow:
    """A query on the contact sheet, with its answers."""

    path: Path
    first_rank: int  # of the first correct answer among all references
    answers: list[SheetAnswer]  # best first
    right: SheetAnswer | None = None  # a correct one, if the first answer is wrong
    recall_first_rank: int | None = None  # first_rank in stage one; None if there is only one stage


def choose_queries(first_rank_Q: np.ndarray, recall_first_rank_Q: np.ndarray | None, count: int) -> np.ndarray:
    """(count,) queries, evenly spaced from the best answered to the worst.

    For a search in stages, they include a query that re-ranking won (whose first answer is correct only after it) and
    one that it lost, if there are such queries and ``count`` leaves room. Each replaces the nearest of the others.

    Args:
        first_rank_Q: rank of the first correct answer.
        recall_first_rank_Q: rank of the first correct answer in stage one; None if there is only one stage.
        count: at most Q.
    """
    best_first = np.argsort(first_rank_Q, kind="stable")
    chosen = np.linspace(0, len(best_first) - 1, count).round().astype(int)
    if recall_first_rank_Q is not None:
        now, before = first_rank_Q[best_first] == 1, recall_first_rank_Q[best_first] == 1
        won, lost = np.flatnonzero(now & ~before), np.flatnonzero(before & ~now)
        chosen = _with_one_of(won, chosen, np.ones(count, bool))
        chosen = _with_one_of(lost, chosen, ~np.isin(chosen, won) | (np.isin(chosen, won).sum() > 1))
    return best_first[np.sort(chosen)]


def _with_one_of(wanted: np.ndarray, chosen: np.ndarray, replaceable: np.ndarray) -> np.ndarray:
    """``chosen``, with one replaceable number replaced by the nearest of ``wanted``, which may be the number itself."""
    if not len(wanted) or not replaceable.any():
        return chosen
    free = np.flatnonzero(replaceable)
    off = np.abs(chosen[free][:, None] - wanted)
    slot, choice = np.unravel_index(np.argmin(off), off.shape)
    chosen = chosen.copy()
    chosen[free[slot]] = wanted[choice]
    return chosen


def draw_contact_sheet(rows: list[SheetRow], title: str, subtitle: str) -> bytes:
    """The sheet as a PNG file.

    Args:
        subtitle: one line or several.

    Raises:
        ImageError: an image is missing or broken.
    """
    columns = max(len(row.answers) for row in rows)
    has_right = any(row.right for row in rows)
    cell = _TILE_PX + 2 * _FRAME_PX
    width = 2 * _MARGIN_PX + (columns + 1) * cell + columns * _GAP_PX + _GAP_PX
    width += has_right * (cell + 2 * _GAP_PX)
    lines = subtitle.splitlines()
    widest = max(_font(22).getlength(title), *(_font(15).getlength(line) for line in lines))
    width = max(width, 2 * _MARGIN_PX + round(widest))  # two references make a narrow sheet
    header = _HEADER_PX + (len(lines) - 1) * _SUBTITLE_PX
    height = header + len(rows) * (cell + _CAPTION_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 20), title, fill=_INK, font=_font(22))
    for index, line in enumerate(lines):
        draw.text((_MARGIN_PX, 51 + index * _SUBTITLE_PX), line, fill=_SOFT, font=_font(15))
    for index, row in enumerate(rows):
        top = header + index * (cell + _CAPTION_PX)
        _draw_row(sheet, draw, row, top, columns)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, top: int, columns: int) -> None:
    left = _MARGIN_PX
    _paste(sheet, draw, row.path, (left, top), _QUERY, 1)
    verdict = f"first correct answer: rank {row.first_rank}"
    if row.recall_first_rank is not None:
        verdict = f"first correct: rank {row.first_rank}, was {row.recall_first_rank}"
    _caption(draw, (left, top), row.path.stem, verdict)
    for place, answer in enumerate(row.answers):
        left = _MARGIN_PX + (place + 1) * (_TILE_PX + 2 * _FRAME_PX + _GAP_PX) + _GAP_PX
        _paste(sheet, draw, answer.path, (left, top), _RIGHT if answer.right else _WRONG, _FRAME_PX)
        verdict = "correct" if answer.right else "wrong, overlaps" if answer.overlaps else "wrong"
        before = "" if answer.recall_rank is None else f", was #{answer.recall_rank}"
        first = f"#{place + 1}{before}{_off(answer.distance_m)}"
        _caption(draw, (left, top), first, f"{verdict}, {answer.score_name} {answer.score:.3f}")
    if row.right:
        left = _MARGIN_PX + (columns + 1) * (_TILE_PX + 2 * _FRAME_PX + _GAP_PX) + 2 * _GAP_PX
        _paste(sheet, draw, row.right.path, (left, top), _RIGHT, _FRAME_PX)
        score = f"{row.right.score_name} {row.right.score:.3f}"
        _caption(draw, (left, top), f"a correct answer{_off(row.right.distance_m)}", score)


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, path: Path, corner: tuple[int, int], color: str, frame_px: int
) -> None:
    """Draw the whole image, centered in its square, with a frame around the square."""
    left, top = corner
    side = _TILE_PX + 2 * _FRAME_PX
    draw.rectangle((left, top, left + side - 1, top + side - 1), outline=color, width=frame_px, fill=_BLANK)
    inner = Image.new("RGB", (_TILE_PX, _TILE_PX), _BLANK)
    image = Image.fromarray(read_image(path).pixels_HW3)
    image = ImageOps.contain(image, (_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
    inner.paste(image, ((_TILE_PX - image.width) // 2, (_TILE_PX - image.height) // 2))
    sheet.paste(inner, (left + _FRAME_PX, top + _FRAME_PX))


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], first: str, second: str) -> None:
    left, top = corner[0], corner[1] + _TILE_PX + 2 * _FRAME_PX + 4
    draw.text((left, top), _shorten(draw, first, _font(15)), fill=_INK, font=_font(15))
    draw.text((left, top + 18), _shorten(draw, second, _font(13)), fill=_SOFT, font=_font(13))


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text; if too long, its end after an ellipsis, as the end of a frame's name differs from its neighbors'."""
    if draw.textlength(text, font) <= _TILE_PX + 2 * _FRAME_PX:
        return text
    while text and draw.textlength("..." + text, font) > _TILE_PX + 2 * _FRAME_PX:
        text = text[1:]
    return "..." + text


def _off(distance_m: float | None) -> str:
    if distance_m is None:
        return ""
    if math.isnan(distance_m):
        return "   place unknown"
    if distance_m >= 10_000:
        return f"   {distance_m / 1000:.0f} km off"
    if distance_m >= 1000:
        return f"   {distance_m / 1000:.1f} km off"
    return f"   {distance_m:.0f} m off"


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_px)


_STYLES = {
    "model": {"color": "#1f5fbf", "linewidth": 2.6, "zorder": 4},
    "stage_one": {"color": "#5fa8e8", "linewidth": 1.9, "zorder": 3.6},
    "phi": {"color": "#7d5fc4", "linewidth": 1.7, "linestyle": (0, (6, 1.5)), "zorder": 3.3},
    "color_histogram": {"color": "#c2701c", "linewidth": 1.7, "zorder": 3},
    "constant": {"color": "#6b7580", "linewidth": 1.7, "linestyle": (0, (5, 2)), "zorder": 2},
    "chance": {"color": "#9aa4ad", "linewidth": 1.7, "linestyle": (0, (1, 1.5)), "zorder": 1},
}
_LEGEND_COLUMNS = 4


@dataclass(frozen=True)
class Curve:
    """The distances of one method's first answers, as a curve of the figure."""

    method: str
    title: str
    distance_Q: np.ndarray  # meters; for chance, the distances of all equally likely answers


def fraction_within(distance_Q: np.ndarray, limit_X: np.ndarray) -> np.ndarray:
    """(X,) fraction of the distances that are at most each limit."""
    return np.searchsorted(np.sort(distance_Q), limit_X, side="right") / len(distance_Q)


def draw_distance_curve(curves: list[Curve], title: str, subtitle: str) -> bytes:
    """The figure as a PNG file; the axis of distances is logarithmic, since near misses matter most."""
    limit_X = np.geomspace(*_range(curves), 2000)
    from matplotlib.figure import Figure  # here: matplotlib takes a second to import

    figure = Figure(figsize=(9.2, 5.4), dpi=150)  # no pyplot: needs no window system and nothing to close
    axes = figure.subplots()
    for curve in curves:
        median = float(np.median(curve.distance_Q))
        label = f"{curve.title} ({median:.0f} m)"
        axes.plot(limit_X, fraction_within(curve.distance_Q, limit_X), label=label, **_STYLES[curve.method])
    _dress(axes, limit_X)
    rows = -(-len(curves) // _LEGEND_COLUMNS)
    figure.legend(  # rows above the axes, where no curve can run into them
        loc="upper left",
        bbox_to_anchor=(0.067, 0.872),
        ncols=-(-len(curves) // rows),
        frameon=False,
        fontsize=9.5,
        handlelength=1.8,
        columnspacing=1.5,
        borderaxespad=0,
    )
    figure.text(0.075, 0.965, title, fontsize=14, fontweight="bold", color="#1b1f24", va="top")
    figure.text(0.075, 0.915, f"{subtitle}; median in parentheses", fontsize=10, color="#667079", va="top")
    figure.subplots_adjust(left=0.075, right=0.975, top=0.85 - 0.05 * rows, bottom=0.115)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", metadata={"Software": None})
    return encoded.getvalue()


def _range(curves: list[Curve]) -> tuple[float, float]:
    far = max(20.0, *(float(curve.distance_Q.max()) for curve in curves))
    near = min(float(np.quantile(curve.distance_Q, 0.02)) for curve in curves)
    return max(1.0, far / 3000, min(near, far / 10)), far


def _dress(axes: Any, limit_X: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    axes.set_xscale("log")
    axes.set_xlim(limit_X[0], limit_X[-1])
    axes.set_ylim(0, 1.005)
    steps = [mantissa * 10**power for power in range(8) for mantissa in (1, 2, 5)]
    axes.set_xticks([step for step in steps if limit_X[0] <= step <= limit_X[-1]])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g} m" if x < 1000 else f"{x / 1000:g} km"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("distance from the true place to the center of the first answer", fontsize=10, color="#1b1f24")
    axes.set_ylabel("queries within that distance", fontsize=10, color="#1b1f24")
    axes.grid(True, color="#e3e6e9", linewidth=0.8)
    axes.tick_params(length=0, labelsize=9, labelcolor="#444c54")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#9aa4ad")
