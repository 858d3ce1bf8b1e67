"""The pictures of a split that have a pair, and which of their tiles are near each, by map or by descriptor.

Letters: P pairs, D drone pictures of the split, N of them or of its tiles that have a pair, E overlaps, K neighbors.
"""

import hashlib
from pathlib import Path

import numpy as np

from mindloc.data.hard_negatives import NO_TILE
from mindloc.data.pairs import Split
from mindloc.retrieval.descriptor_set import load_descriptor_set, set_folder
from mindloc.retrieval.neighbors import nearest_by_descriptor, nearest_on_map


class PairedPictures:
    """The drone pictures and tiles of a split that have a pair, and which of them overlap whatever is trained on.

    Tiles without a pair, say those of a test area, are nobody's neighbors: no batch could hold them.
    """

    def __init__(self, split: Split, pair_P2: np.ndarray, k: int):
        self.split, self.k = split, k
        self.index = {"drone": np.unique(pair_P2[:, 0]), "satellite": np.unique(pair_P2[:, 1])}
        self.pairs_sha256 = hashlib.sha256(np.ascontiguousarray(pair_P2).tobytes()).hexdigest()
        edges = split.semipositive
        row_E = _position(self.index["drone"], len(split.drone_files))[edges.drone()]
        column_E = _position(self.index["satellite"], len(split.satellite_files))[edges.satellite]
        among = (row_E >= 0) & (column_E >= 0)
        self._overlap = (row_E[among], column_E[among])

    def names(self, view: str) -> list[str]:
        """Files of one view, relative to the root of the data set."""
        files = self.split.drone_files if view == "drone" else self.split.satellite_files
        return [files[index] for index in self.index[view]]

    def places(self, view: str) -> np.ndarray:
        """(N, 2) in the split's place unit."""
        place_N2 = self.split.drone_place if view == "drone" else self.split.satellite_place
        return place_N2[self.index[view]]

    def near_on_map(self) -> np.ndarray:
        """(D, K) int32 tiles of the split by growing distance, none that overlaps; ``NO_TILE`` fills up."""
        places = (self.places("drone"), self.places("satellite"))
        return self._of_split(nearest_on_map(*places, self.split.place_unit, self.k, self._overlap))

    def near_by_descriptor(self, folder: Path) -> np.ndarray:
        """The same by falling cosine of the sets in ``folder/drone`` and ``folder/satellite``.

        Raises:
            DataError: the sets are damaged.
        """
        sides = [_recall_descriptors(folder / view) for view in ("drone", "satellite")]
        return self._of_split(nearest_by_descriptor(*sides, self.k, self._overlap))

    def _of_split(self, near_NK: np.ndarray) -> np.ndarray:
        table_DK = np.full((len(self.split.drone_files), self.k), NO_TILE, np.int32)
        table_DK[self.index["drone"]] = np.where(near_NK < 0, NO_TILE, self.index["satellite"][near_NK])
        return table_DK


def _recall_descriptors(folder: Path) -> np.ndarray:
    omega = set_folder(folder, "omega")
    return load_descriptor_set(omega if omega.is_dir() else folder).descriptor_ND


def _position(index_N: np.ndarray, count: int) -> np.ndarray:
    """Place in ``index_N`` of each of ``count`` numbers, -1 where it is not in there."""
    position = np.full(count, -1, np.int64)
    position[index_N] = np.arange(len(index_N))
    return position
