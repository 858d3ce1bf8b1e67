"""The map as pixel layers: what every pixel is made of, how high it stands, and detail such as rows and roof tiles.

Layers are drawn once per world and serve every season. x = column, y = row, top left pixel covers (0, 0) meters.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_SHIFT = 4  # cv2 draws polygons at 1/16 pixel
DETAIL_NEUTRAL = 128


@dataclass
class MapLayers:
    """All layers have the shape (map_px, map_px).

    Args:
        material: uint8, a number of materials.py.
        height_cm: uint16, above the ground.
        detail: uint8, 128 is neutral; below it more soil between rows, or darker.
        m_per_px: meters per pixel.
    """

    material: np.ndarray
    height_cm: np.ndarray
    detail: np.ndarray
    m_per_px: float

    def copy(self) -> "MapLayers":
        return MapLayers(self.material.copy(), self.height_cm.copy(), self.detail.copy(), self.m_per_px)

    def px(self, point_N2) -> np.ndarray:
        """Meters to fixed-point pixels for cv2 (pixel centers at whole numbers)."""
        return np.round((np.asarray(point_N2) / self.m_per_px - 0.5) * (1 << _SHIFT)).astype(np.int32)

    def fill(self, polygon_N2, material: int, detail: int | None = DETAIL_NEUTRAL, height_cm: int | None = 0) -> None:
        """Fill a polygon given in meters."""
        corner = [self.px(polygon_N2)]
        cv2.fillPoly(self.material, corner, int(material), cv2.LINE_8, _SHIFT)
        if detail is not None:
            cv2.fillPoly(self.detail, corner, int(detail), cv2.LINE_8, _SHIFT)
        if height_cm is not None:
            cv2.fillPoly(self.height_cm, corner, int(height_cm), cv2.LINE_8, _SHIFT)

    def stroke(self, line_N2, width_m: float, material: int, round_ends: bool = False) -> None:
        """Draw a polyline of some width, given in meters."""
        self.fill_all(ribbon(line_N2, width_m / 2), material, DETAIL_NEUTRAL)
        if not round_ends:
            return
        radius = max(int(round(width_m / 2 / self.m_per_px * (1 << _SHIFT))), 1)
        for end in self.px(line_N2[[0, -1]]):
            cv2.circle(self.material, tuple(int(v) for v in end), radius, int(material), -1, cv2.LINE_8, _SHIFT)

    def fill_all(self, polygon_P42, material: int, detail: int | None) -> None:
        """Fill many quadrilaterals alike."""
        for corner in self.px(polygon_P42):
            cv2.fillConvexPoly(self.material, corner, int(material), cv2.LINE_8, _SHIFT)
            if detail is not None:
                cv2.fillConvexPoly(self.detail, corner, int(detail), cv2.LINE_8, _SHIFT)

    def window(self, polygon_N2, margin_px: int = 1):
        """Slices (rows, columns) around a polygon, cut at the map's edge, and the centers of its pixels in meters.

        Returns None where it lies off the map.
        """
        size = self.material.shape[0]
        low = np.floor(np.min(polygon_N2, axis=0) / self.m_per_px).astype(int) - margin_px
        high = np.ceil(np.max(polygon_N2, axis=0) / self.m_per_px).astype(int) + margin_px
        low, high = np.clip(low, 0, size), np.clip(high, 0, size)
        if (high <= low).any():
            return None
        x_m = (np.arange(low[0], high[0], dtype=np.float32) + 0.5) * self.m_per_px
        y_m = (np.arange(low[1], high[1], dtype=np.float32) + 0.5) * self.m_per_px
        return (slice(low[1], high[1]), slice(low[0], high[0])), x_m[None, :], y_m[:, None]

    def mask(self, slices, polygon_N2) -> np.ndarray:
        """Which pixels of a window lie in a polygon, bool."""
        rows, columns = slices
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        corner = self.px(polygon_N2) - np.array([columns.start, rows.start]) * (1 << _SHIFT)
        cv2.fillPoly(mask, [corner.astype(np.int32)], 1, cv2.LINE_8, _SHIFT)
        return mask.astype(bool)


def empty_layers(map_px: int, m_per_px: float, material: int) -> MapLayers:
    """Flat land of one material."""
    shape = (map_px, map_px)
    return MapLayers(
        np.full(shape, material, np.uint8),
        np.zeros(shape, np.uint16),
        np.full(shape, DETAIL_NEUTRAL, np.uint8),
        m_per_px,
    )


def ribbon(line_N2, half_width) -> np.ndarray:
    """Quadrilaterals (N - 1, 4, 2) along a polyline; ``half_width`` in meters, a number or one per corner."""
    line_N2 = np.asarray(line_N2, np.float64)
    along_N2 = np.gradient(line_N2, axis=0)
    along_N2 /= np.maximum(np.hypot(*along_N2.T), 1e-9)[:, None]
    side_N2 = np.stack([-along_N2[:, 1], along_N2[:, 0]], axis=1) * np.reshape(half_width, (-1, 1))
    left, right = line_N2 + side_N2, line_N2 - side_N2
    return np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1)


def rectangle(center_2, length_m: float, depth_m: float, angle: float) -> np.ndarray:
    """Corners (4, 2) of a turned rectangle."""
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    return np.asarray(center_2) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [
        length_m / 2,
        depth_m / 2,
    ] @ np.stack([along, across])
