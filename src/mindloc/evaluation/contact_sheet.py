"""One PNG that shows what the numbers mean: some queries and their first answers, right ones green, wrong ones red."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mindloc.errors import DataError, ImageError, one_line
from mindloc.runtime.atomic import atomic_write

ANSWERS = 5
_TILE_PX = 208
_FRAME_PX = 7
_GAP_PX = 16
_MARGIN_PX = 28
_HEADER_PX = 84
_SUBTITLE_PX = 20  # from one line of it to the next
_CAPTION_PX = 62
_INK, _SOFT, _PAPER, _BLANK = "#1b1f24", "#667079", "#ffffff", "#e3e6e9"
_RIGHT, _WRONG, _QUERY = "#1a9850", "#d73027", "#1b1f24"


@dataclass(frozen=True)
class Answer:
    """One gallery picture."""

    path: Path
    right: bool
    distance_m: float | None  # from the query's place to this picture's center
    score: float
    overlaps: bool = False  # a semi-positive in a mode where that counts as wrong
    recall_rank: int | None = None  # place in stage one; None where there is one stage
    score_name: str = "cosine"


@dataclass(frozen=True)
class SheetRow:
    """One query."""

    path: Path
    first_rank: int  # of the first right answer in the whole gallery
    answers: list[Answer]  # best first
    recall_first_rank: int | None = None  # first_rank in stage one; None where there is one stage


def choose_queries(first_rank_Q: np.ndarray, recall_first_rank_Q: np.ndarray | None, count: int) -> np.ndarray:
    """(count,) queries evenly spaced from the best answered to the worst.

    Of a search in stages one that re-ranking won (right first only now) and one that it lost are among them where there
    is such a query and room for it: it takes the place of the nearest one.

    Args:
        first_rank_Q: rank of the first right answer.
        recall_first_rank_Q: the same in stage one; None where there is one stage.
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
    """``chosen``, after one that is replaceable made room for the nearest wanted one: itself, where it is wanted."""
    if not len(wanted) or not replaceable.any():
        return chosen
    free = np.flatnonzero(replaceable)
    off = np.abs(chosen[free][:, None] - wanted)
    slot, choice = np.unravel_index(np.argmin(off), off.shape)
    chosen = chosen.copy()
    chosen[free[slot]] = wanted[choice]
    return chosen


def draw_contact_sheet(path: Path, rows: list[SheetRow], title: str, subtitle: str) -> None:
    """Write the sheet.

    Args:
        subtitle: one line or several.

    Raises:
        ImageError: a picture is missing or broken.
    """
    columns = max(len(row.answers) for row in rows)
    cell = _TILE_PX + 2 * _FRAME_PX
    width = 2 * _MARGIN_PX + (columns + 1) * cell + columns * _GAP_PX + _GAP_PX
    lines = subtitle.splitlines()
    widest = max(_font(22).getlength(title), *(_font(15).getlength(line) for line in lines))
    width = max(width, 2 * _MARGIN_PX + round(widest))  # a gallery of two tiles makes a narrow sheet
    header = _HEADER_PX + (len(lines) - 1) * _SUBTITLE_PX
    height = header + len(rows) * (cell + _CAPTION_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 20), title, fill=_INK, font=_font(22))
    for index, line in enumerate(lines):
        draw.text((_MARGIN_PX, 51 + index * _SUBTITLE_PX), line, fill=_SOFT, font=_font(15))
    for index, row in enumerate(rows):
        top = header + index * (cell + _CAPTION_PX)
        _draw_row(sheet, draw, row, top)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG", optimize=True)
    with atomic_write(path, error=DataError) as file:
        file.write(encoded.getvalue())


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, top: int) -> None:
    left = _MARGIN_PX
    _paste(sheet, draw, row.path, (left, top), _QUERY, 1)
    verdict = f"first right answer: rank {row.first_rank}"
    if row.recall_first_rank is not None:
        verdict = f"first right: rank {row.first_rank}, was {row.recall_first_rank}"
    _caption(draw, (left, top), row.path.stem, verdict)
    for place, answer in enumerate(row.answers):
        left = _MARGIN_PX + (place + 1) * (_TILE_PX + 2 * _FRAME_PX + _GAP_PX) + _GAP_PX
        _paste(sheet, draw, answer.path, (left, top), _RIGHT if answer.right else _WRONG, _FRAME_PX)
        off = "place unknown" if answer.distance_m is None else f"{_meters(answer.distance_m)} off"
        verdict = "right" if answer.right else "wrong, overlaps" if answer.overlaps else "wrong"
        before = "" if answer.recall_rank is None else f", was #{answer.recall_rank}"
        first = f"#{place + 1}{before}   {off}"
        _caption(draw, (left, top), first, f"{verdict}, {answer.score_name} {answer.score:.3f}")


def _paste(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, path: Path, corner: tuple[int, int], color: str, frame_px: int
) -> None:
    """The picture, whole, centered in its square, with a frame that hugs the square."""
    left, top = corner
    side = _TILE_PX + 2 * _FRAME_PX
    draw.rectangle((left, top, left + side - 1, top + side - 1), outline=color, width=frame_px, fill=_BLANK)
    inner = Image.new("RGB", (_TILE_PX, _TILE_PX), _BLANK)
    picture = ImageOps.contain(_open(path), (_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)
    inner.paste(picture, ((_TILE_PX - picture.width) // 2, (_TILE_PX - picture.height) // 2))
    sheet.paste(inner, (left + _FRAME_PX, top + _FRAME_PX))


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except OSError as error:
        reason = one_line(error)
        raise ImageError(
            f"picture {path} can't be read ({reason}); replace it, or take it out of the data set"
        ) from None


def _caption(draw: ImageDraw.ImageDraw, corner: tuple[int, int], first: str, second: str) -> None:
    left, top = corner[0], corner[1] + _TILE_PX + 2 * _FRAME_PX + 4
    draw.text((left, top), _shorten(draw, first, _font(15)), fill=_INK, font=_font(15))
    draw.text((left, top + 18), _shorten(draw, second, _font(13)), fill=_SOFT, font=_font(13))


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont) -> str:
    """The text, or its end after an ellipsis: the end of a frame's name is what tells it from its neighbors."""
    if draw.textlength(text, font) <= _TILE_PX + 2 * _FRAME_PX:
        return text
    while text and draw.textlength("..." + text, font) > _TILE_PX + 2 * _FRAME_PX:
        text = text[1:]
    return "..." + text


def _meters(distance_m: float) -> str:
    if distance_m >= 10_000:
        return f"{distance_m / 1000:.0f} km"
    if distance_m >= 1000:
        return f"{distance_m / 1000:.1f} km"
    return f"{distance_m:.0f} m"


def _font(size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size_px)
