"""What each random change does to the pixels: pure functions of a picture and its parameters.

All take and return (H, W, 3) uint8 RGB and leave their argument as it was.
"""

from collections.abc import Sequence

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # of red, green, blue; ITU-R BT.601
_GRID_CELLS = 10  # along the shorter side


def flip_left_right(image: np.ndarray) -> np.ndarray:
    return cv2.flip(image, 1)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """The picture after JPEG compression, quality 1..100."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)


def color_jitter(
    image: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float, order: Sequence[str]
) -> np.ndarray:
    """Brightness, contrast, saturation and hue in the given order, as one 3x4 matrix per picture.

    Two deviations from the usual ColorJitter, for speed. Values are rounded and clipped once at the end, not after
    each part. Hue is a turn around the gray axis instead of one around HSV's hexagon: equal at thirds of the circle
    and for gray, within 16 levels for the muted colors of aerial pictures (saturation .2, hue up to .15), within 76 for
    the purest ones, which it darkens.

    Args:
        brightness, contrast, saturation: factors, 1 is neutral.
        hue: share of the full circle, 0 is neutral.
        order: a permutation of the four names.
    """
    mean_3 = np.array(cv2.mean(image)[:3])
    return cv2.transform(image, color_matrix(mean_3, brightness, contrast, saturation, hue, order))


def color_matrix(
    mean_3: np.ndarray, brightness: float, contrast: float, saturation: float, hue: float, order: Sequence[str]
) -> np.ndarray:
    """(3, 4) matrix of ``color_jitter``, to be applied to [red, green, blue, 1] in levels, for a picture of this mean.

    Contrast pulls toward the gray of the picture's mean luma at that point of the order; as every part is affine,
    the mean follows through the parts exactly.
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
            linear = _turn_around_gray(2 * np.pi * hue)
        else:
            raise ValueError(f"color part {part!r}; expected brightness, contrast, saturation or hue")
        matrix = linear @ matrix
        matrix[:, 3] += offset
    return matrix


def _turn_around_gray(angle: float) -> np.ndarray:
    """Rotation about (1, 1, 1) that takes red to green to blue (Rodrigues' formula)."""
    along = np.full((3, 3), 1 / 3)
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * across + (1 - np.cos(angle)) * along


def advanced_blur(
    image: np.ndarray, size: int, sigma: tuple[float, float], angle_deg: float, beta: float, noise: Sequence[float]
) -> np.ndarray:
    """Blur with a generalized Gaussian, turned by an angle and with some noise on its weights, which sum to 1."""
    return cv2.filter2D(image, -1, blur_kernel(size, sigma, angle_deg, beta, noise))


def blur_kernel(
    size: int, sigma: tuple[float, float], angle_deg: float, beta: float, noise: Sequence[float]
) -> np.ndarray:
    r"""(size, size) weights :math:`\exp(-\tfrac12 (x^T \Sigma^{-1} x)^\beta)` times noise, summing to 1.

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
    """Mixture of the picture and its sharpened form, ``alpha`` the share of the latter.

    The weights sum to 1, so that brightness stays: albumentations' Sharpen darkens besides, which is the color
    jitter's business here.
    """
    kernel = np.full((3, 3), -alpha)
    kernel[1, 1] = (1 - alpha) + 9 * alpha
    return cv2.filter2D(image, -1, kernel)


def grid_dropout(image: np.ndarray, ratio: float, phase: tuple[float, float]) -> np.ndarray:
    """Black squares on a regular grid of ten cells along the shorter side; ``ratio`` is hole side over cell side."""
    height, width = image.shape[:2]
    cell = max(2, min(height, width) // _GRID_CELLS)
    hole = max(1, round(cell * ratio))
    row_H = (np.arange(height) + int(phase[0] * cell)) % cell < hole
    column_W = (np.arange(width) + int(phase[1] * cell)) % cell < hole
    return cv2.copyTo(image, (~(row_H[:, None] & column_W)).astype(np.uint8))  # what is not copied is black


def coarse_dropout(image: np.ndarray, holes: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    """Black rectangles at (top, left, height, width), as shares of the picture's sides; they may overlap."""
    image = image.copy()
    full_height, full_width = image.shape[:2]
    for top, left, height, width in holes:
        first_row, first_column = round(top * full_height), round(left * full_width)
        rows, columns = round(height * full_height), round(width * full_width)
        image[first_row : first_row + rows, first_column : first_column + columns] = 0
    return image


def turn(image: np.ndarray, quarter_turns: int) -> np.ndarray:
    """The picture turned counterclockwise by quarters; 1 and 3 exchange height and width."""
    codes = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}
    return cv2.rotate(image, codes[quarter_turns]) if quarter_turns else image
