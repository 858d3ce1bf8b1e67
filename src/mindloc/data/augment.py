"""Augmentation of the training images: parameters are drawn first, then applied by pure functions.

All parameters depend only on (seed, epoch, pair, side): a resumed run, or one with a different number of workers
or devices, sees the same pixels, and any image of any epoch can be reproduced.

Order, as in the public recipe: flip (both images of a pair together), JPEG, resize, color, blur or sharpen, grid or
coarse dropout, rotation. The loader normalizes afterwards. All functions of pixels take and return (H, W, 3) uint8 RGB
and do not change their argument.

Shapes: H height, W width, 3 red green blue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from mindloc.config.sections import AugmentConfig
from mindloc.data.images import resize
from mindloc.vocabulary import SIDES, SideName, ViewSpec

_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue; ITU-R BT.601
_GRID_CELLS = 10  # along the shorter side
_COLOR_PARTS = ("brightness", "contrast", "saturation", "hue")
_BOTH_SIDES = len(SIDES)  # random stream that the two images share


@dataclass(frozen=True)
class ColorJitter:
    """Parameters of the color jitter."""

    brightness: float  # a factor, as are the next two: 1 is neutral
    contrast: float
    saturation: float
    hue: float  # fraction of the full circle, 0 is neutral
    order: tuple[str, ...]  # in which the four are applied


@dataclass(frozen=True)
class Blur:
    size: int  # odd side of the kernel, pixels
    sigma: tuple[float, float]  # pixels, along the two axes of the kernel
    angle_deg: float
    beta: float  # 1: Gaussian; below: peaked; above: flat-topped
    noise: tuple[float, ...]  # one factor per kernel weight, row by row


@dataclass(frozen=True)
class Sharpen:
    alpha: float  # weight of the sharpened image in the blend, 0..1


@dataclass(frozen=True)
class GridDropout:
    ratio: float  # hole side / cell side
    phase: tuple[float, float]  # offset of the grid, down and right, in cells, 0..1


@dataclass(frozen=True)
class CoarseDropout:
    holes: tuple[tuple[float, float, float, float], ...]  # top, left, height, width as fractions of the image sides


@dataclass(frozen=True)
class Augmentation:
    """Augmentation parameters of one image; None: the step is skipped."""

    flip: bool = False
    jpeg_quality: int | None = None
    color: ColorJitter | None = None
    filter: Blur | Sharpen | None = None
    dropout: GridDropout | CoarseDropout | None = None
    quarter_turns: int = 0  # counterclockwise, 0..3


def draw_augmentation(
    seed: int, epoch: int, pair: int, settings: AugmentConfig, views: Mapping[SideName, ViewSpec]
) -> dict[SideName, Augmentation]:
    """Augmentation parameters of both images of a pair in an epoch: a pure function of the arguments."""
    flip = bool(_generator(seed, epoch, pair, _BOTH_SIDES).random() < settings.flip_p)
    return {
        side: _draw_image(_generator(seed, epoch, pair, stream), settings, flip, views[side].rotate)
        for stream, side in enumerate(SIDES)
    }


def _generator(seed: int, epoch: int, pair: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch, pair, stream))))


def _draw_image(random: np.random.Generator, settings: AugmentConfig, flip: bool, rotates: bool) -> Augmentation:
    low, high = settings.jpeg_quality
    return Augmentation(
        flip=flip,
        jpeg_quality=int(random.integers(low, high + 1)) if random.random() < settings.jpeg_p else None,
        color=_draw_color(random, settings.color_jitter) if random.random() < settings.color_p else None,
        filter=_draw_filter(random) if random.random() < settings.filter_p else None,
        dropout=_draw_dropout(random, settings) if random.random() < settings.dropout_p else None,
        quarter_turns=int(random.integers(4)) if rotates else 0,
    )


def _draw_color(random: np.random.Generator, size: tuple[float, float, float, float]) -> ColorJitter:
    factors = [float(random.uniform(max(0.0, 1 - spread), 1 + spread)) for spread in size[:3]]
    order = tuple(_COLOR_PARTS[part] for part in random.permutation(4))
    return ColorJitter(*factors, hue=float(random.uniform(-size[3], size[3])), order=order)


def _draw_filter(random: np.random.Generator) -> Blur | Sharpen:
    """Blur or sharpen, in the default ranges of albumentations' AdvancedBlur and Sharpen, as in the public recipe."""
    if random.random() < 0.5:
        return Sharpen(alpha=float(random.uniform(0.2, 0.5)))
    size = (3, 5, 7)[random.integers(3)]
    peaked = random.random() < 0.5
    return Blur(
        size=size,
        sigma=(float(random.uniform(0.2, 1.0)), float(random.uniform(0.2, 1.0))),
        angle_deg=float(random.uniform(-90, 90)),
        beta=float(random.uniform(0.5, 1.0) if peaked else random.uniform(1.0, 8.0)),
        noise=tuple(random.uniform(0.9, 1.1, size * size).tolist()),
    )


def _draw_dropout(random: np.random.Generator, settings: AugmentConfig) -> GridDropout | CoarseDropout:
    if random.random() < 0.5:
        return GridDropout(settings.grid_dropout_ratio, phase=(float(random.random()), float(random.random())))
    low, high = settings.coarse_dropout_holes
    count = int(random.integers(low, high + 1))
    side = random.uniform(*settings.coarse_dropout_side, size=(count, 2))
    corner = random.random((count, 2)) * (1 - side)
    return CoarseDropout(tuple(map(tuple, np.concatenate([corner, side], axis=1).tolist())))


def augment(image_HW3: np.ndarray, change: Augmentation, size_px: tuple[int, int]) -> np.ndarray:
    """The augmented image at ``size_px`` (height, width), uint8 RGB; the argument is not changed.

    An image that is not square keeps its shape: 1 or 2 quarter turns become a half turn, 0 or 3 become none, so that
    a half turn and none are equally frequent.
    """
    image = flip_left_right(image_HW3) if change.flip else image_HW3
    if change.jpeg_quality is not None:
        image = jpeg(image, change.jpeg_quality)
    image = resize(image, size_px)
    if change.color is not None:
        color = change.color
        image = color_jitter(image, color.brightness, color.contrast, color.saturation, color.hue, color.order)
    image = _filtered(image, change.filter)
    image = _with_holes(image, change.dropout)
    square = size_px[0] == size_px[1]
    return rotate(image, change.quarter_turns if square else 2 * (change.quarter_turns in (1, 2)))


def _filtered(image: np.ndarray, change: Blur | Sharpen | None) -> np.ndarray:
    if isinstance(change, Blur):
        return advanced_blur(image, change.size, change.sigma, change.angle_deg, change.beta, change.noise)
    if isinstance(change, Sharpen):
        return sharpen(image, change.alpha)
    return image


def _with_holes(image: np.ndarray, change: GridDropout | CoarseDropout | None) -> np.ndarray:
    if isinstance(change, GridDropout):
        return grid_dropout(image, change.ratio, change.phase)
    if isinstance(change, CoarseDropout):
        return coarse_dropout(image, change.holes)
    return image


def flip_left_right(image: np.ndarray) -> np.ndarray:
    return cv2.flip(image, 1)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after JPEG compression, quality 1..100."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)


def color_jitter(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float, order: Sequence[str]
) -> np.ndarray:
    """Jitter of brightness, contrast, saturation and hue in the given order, as one 3x4 matrix per image.

    Two deviations from the usual ColorJitter, for speed. Values are rounded and clipped once at the end, not after each
    part. Hue is a rotation around the gray axis instead of a shift along HSV's hexagon. The two agree at thirds of the
    circle and for gray; they differ by at most 16 levels for the muted colors of aerial images (saturation 0.2, hue up
    to 0.15), and by at most 76 for saturated colors, which become darker.

    Args:
        brightness, contrast, saturation: factors, 1 is neutral.
        hue: fraction of the full circle, 0 is neutral.
        order: a permutation of the four names.
    """
    mean_3 = np.array(cv2.mean(image)[:3])
    return cv2.transform(image, color_matrix(mean_3, brightness, contrast, saturation, hue, order))


def color_matrix(
    mean_3: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float, order: Sequence[str]
) -> np.ndarray:
    """(3, 4) matrix of ``color_jitter`` for an image of this mean, applied to [red, green, blue, 1] in 0..255.

    Contrast blends with the gray of the image's mean luma at that point of the order. All parts are affine, so the mean
    after each part is exact.
    """
    matrix = np.eye(3, 4)
    for part in order:
        linear, offset = np.eye(3), np.zeros(3)
        if part == "brightness":
            linear = brightness * linear
        elif part == "contrast":
            mean_now = matrix[:, :3] @ mean_3 + matrix[:, 3]
            linear, offset = contrast * linear, np.full(3, (1 - contrast) * (_LUMA @ mean_now))
        elif part == "saturation":
            linear = saturation * linear + (1 - saturation) * np.tile(_LUMA, (3, 1))
        elif part == "hue":
            linear = _rotation_around_gray(2 * np.pi * hue)
        else:
            raise ValueError(f"color part is {part!r}; expected brightness, contrast, saturation or hue")
        matrix = linear @ matrix
        matrix[:, 3] += offset
    return matrix


def _rotation_around_gray(angle: float) -> np.ndarray:
    """Rotation around (1, 1, 1) by ``angle`` radians, red toward green toward blue (Rodrigues' formula)."""
    along = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * along


def advanced_blur(
    image: np.ndarray, size: int, sigma: tuple[float, float], angle_deg: float, beta: float, noise: Sequence[float]
) -> np.ndarray:
    """Blur with a rotated generalized Gaussian whose weights have multiplicative noise and sum to 1."""
    return cv2.filter2D(image, -1, blur_kernel(size, sigma, angle_deg, beta, noise))


def blur_kernel(
    size: int, sigma: tuple[float, float], angle_deg: float, beta: float, noise: Sequence[float]
) -> np.ndarray:
    r"""(size, size) weights :math:`\exp(-\tfrac12 (x^T \Sigma^{-1} x)^\beta)` times noise, normalized to sum 1.

    References:
        Real-ESRGAN, arXiv:2107.10833, section 3.1 (the kernels that albumentations' AdvancedBlur draws from).
    """
    offset = np.arange(size) - size // 2
    right, down = np.meshgrid(offset, offset)
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    distance_2 = ((cos * right + sin * down) / sigma[0]) ** 2 + ((cos * down - sin * right) / sigma[1]) ** 2
    kernel = np.exp(-0.5 * distance_2**beta) * np.reshape(noise, (size, size))
    return kernel / kernel.sum()


def sharpen(image: np.ndarray, alpha: float) -> np.ndarray:
    """Blend of the image and its sharpened form, which has weight ``alpha``.

    The kernel sums to 1, which keeps the brightness. albumentations' Sharpen also darkens; here only the color jitter
    changes the brightness.
    """
    kernel = np.full((3, 3), -alpha)
    kernel[1, 1] = (1 - alpha) + 9 * alpha
    return cv2.filter2D(image, -1, kernel)


def grid_dropout(image: np.ndarray, ratio: float, phase: tuple[float, float]) -> np.ndarray:
    """Blacken squares on a regular grid of ten cells along the shorter side; ``ratio`` is hole side over cell side."""
    height, width = image.shape[:2]
    cell = max(2, min(height, width) // _GRID_CELLS)
    hole = max(1, round(cell * ratio))
    row_H = (np.arange(height) + int(phase[0] * cell)) % cell < hole
    column_W = (np.arange(width) + int(phase[1] * cell)) % cell < hole
    return cv2.copyTo(image, (~(row_H[:, None] & column_W)).astype(np.uint8))  # pixels not copied are black


def coarse_dropout(image: np.ndarray, holes: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """Blacken rectangles (top, left, height, width), in fractions of the image sides; they may overlap."""
    image = image.copy()
    full_height, full_width = image.shape[:2]
    for top, left, height, width in holes:
        first_row, first_column = round(top * full_height), round(left * full_width)
        rows, columns = round(height * full_height), round(width * full_width)
        image[first_row : first_row + rows, first_column : first_column + columns] = 0
    return image


def rotate(image: np.ndarray, quarter_turns: int) -> np.ndarray:
    """The image rotated counterclockwise by multiples of 90 degrees; 1 and 3 exchange height and width."""
    codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    return cv2.rotate(image, codes[quarter_turns]) if quarter_turns else image
