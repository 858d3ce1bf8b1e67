"""Ground of VIGOR's tiles: images of 640 px, north up, each named by the place of its center.

An offset is (row, column) in pixels: the panorama is at x = 320 - column, y = 320 + row of the tile's image, x to the
right and east, y down and south. Shapes: N tiles or pairs, 2 a place (latitude, longitude) or an offset.

References:
    VIGOR, arXiv:2011.12172; SliceMatch, arXiv:2211.14651, for meters per pixel and corrected labels.
"""

import numpy as np

from mindloc.geo.points import EARTH_RADIUS_M, wrapped_lon

TILE_PX = 640
# SliceMatch's; the release has 0.114 for all, which is 13 % wrong in Seattle
M_PER_PX = {"Chicago": 0.111262, "NewYork": 0.113248, "SanFrancisco": 0.118141, "Seattle": 0.100817}
_MERCATOR_M_PER_PX = 156543.03392 / 2**20  # of Web-Mercator tiles of 256 px at zoom 20, at the equator
_M_PER_DEG = EARTH_RADIUS_M * np.radians(1.0)


def tile_m_per_px(city: str, lat_N) -> np.ndarray:
    """Meters per pixel of tiles of a city at 640 px, shape of ``lat_N``.

    A city that is not in ``M_PER_PX`` has Web-Mercator tiles of zoom 20, whose scale follows the latitude.
    """
    lat_N = np.asarray(lat_N, np.float64)
    if city in M_PER_PX:
        return np.full_like(lat_N, M_PER_PX[city])
    return _MERCATOR_M_PER_PX * np.cos(np.radians(lat_N))


def place_in_tile(tile_N2, offset_px_N2, m_per_px_N) -> np.ndarray:
    """Places (..., 2) of panoramas with these offsets from these tiles; leading axes broadcast.

    Args:
        tile_N2: centers of the tiles.
        offset_px_N2: (row, column) of the tile at 640 px.
        m_per_px_N: at 640 px, as from ``tile_m_per_px``.
    """
    tile_N2, offset_px_N2 = np.asarray(tile_N2, np.float64), np.asarray(offset_px_N2, np.float64)
    deg_per_px_N = np.asarray(m_per_px_N, np.float64) / _M_PER_DEG
    lat_N = tile_N2[..., 0] - offset_px_N2[..., 0] * deg_per_px_N
    lon_N = tile_N2[..., 1] - offset_px_N2[..., 1] * deg_per_px_N / np.cos(np.radians(tile_N2[..., 0]))
    return np.stack([lat_N, wrapped_lon(lon_N)], axis=-1)


def tile_bounds(tile_N2, m_per_px_N) -> np.ndarray:
    """(N, 4): lowest latitude, lowest longitude, highest latitude, highest longitude of tiles with these centers.

    The lowest longitude is in -180..180; that of a tile across the 180th meridian passes it at the highest.
    """
    tile_N2 = np.asarray(tile_N2, np.float64)
    half_lat_N = TILE_PX / 2 * np.asarray(m_per_px_N, np.float64) / _M_PER_DEG
    half_lon_N = half_lat_N / np.cos(np.radians(tile_N2[:, 0]))
    left_N = wrapped_lon(tile_N2[:, 1] - half_lon_N)
    lat_N = tile_N2[:, 0]
    return np.stack([lat_N - half_lat_N, left_N, lat_N + half_lat_N, left_N + 2 * half_lon_N], axis=1)


def overlap_iou(offset_px_N2) -> np.ndarray:
    """IoU of a tile and a tile around the panorama, 0..1, float64: p / (2 - p) with p the share that both cover.

    Args:
        offset_px_N2: (..., 2), at most 640 px either way.
    """
    row_N, column_N = np.moveaxis(1 - np.abs(np.asarray(offset_px_N2, np.float64)) / TILE_PX, -1, 0)
    share_N = row_N * column_N
    return share_N / (2 - share_N)
