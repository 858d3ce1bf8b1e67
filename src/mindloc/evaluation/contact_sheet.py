"""One PNG that shows what the numbers mean: some queries and their first answers, right ones green, wrong ones red."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from mindloc.errors import DataError, ImageError, one_line
from mindloc.runtime.atomic import atomic_write

ANSWERS = 5
_TILE_PX = 208
_FRAME_PX = 7
_GAP_PX = 16
_MARGIN_PX = 28
_HEADER_PX = 84
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


@dataclass(frozen=True)
class SheetRow:
    """One query."""

    path: Path
    first_rank: int  # of the first right answer in the whole gallery
    answers: list[Answer]  # best first


def draw_contact_sheet(path: Path, rows: list[SheetRow], title: str, subtitle: str) -> None:
    """Write the sheet.

    Raises:
        ImageError: a picture is missing or broken.
    """
    columns = max(len(row.answers) for row in rows)
    cell = _TILE_PX + 2 * _FRAME_PX
    width = 2 * _MARGIN_PX + (columns + 1) * cell + columns * _GAP_PX + _GAP_PX
    height = _HEADER_PX + len(rows) * (cell + _CAPTION_PX) + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN_PX, 20), title, fill=_INK, font=_font(22))
    draw.text((_MARGIN_PX, 51), subtitle, fill=_SOFT, font=_font(15))
    for index, row in enumerate(rows):
        top = _HEADER_PX + index * (cell + _CAPTION_PX)
        _draw_row(sheet, draw, row, top)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG", optimize=True)
    with atomic_write(path, error=DataError) as file:
        file.write(encoded.getvalue())


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: SheetRow, top: int) -> None:
    left = _MARGIN_PX
    _paste(sheet, draw, row.path, (left, top), _QUERY, 1)
    _caption(draw, (left, top), row.path.stem, f"first right answer: rank {row.first_rank}")
    for place, answer in enumerate(row.answers):
        left = _MARGIN_PX + (place + 1) * (_TILE_PX + 2 * _FRAME_PX + _GAP_PX) + _GAP_PX
        _paste(sheet, draw, answer.path, (left, top), _RIGHT if answer.right else _WRONG, _FRAME_PX)
        off = "place unknown" if answer.distance_m is None else f"{_meters(answer.distance_m)} off"
        verdict = "right" if answer.right else "wrong, overlaps" if answer.overlaps else "wrong"
        _caption(draw, (left, top), f"#{place + 1}   {off}", f"{verdict}, cosine {answer.score:.3f}")


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
