"""Reduction of recall vectors: projection to the directions of largest variance (randomized PCA, mean removed).

Rows are read in blocks, so a memory-mapped matrix may have any size; the (D, D) covariance is never computed.

Shapes: N rows, B rows of a block, D width as encoded, E width after the reduction, L width with oversampling.

References:
    Halko, Martinsson, Tropp, arXiv:0909.4061, algorithms 4.4 (with re-orthonormalization) and 5.1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mindloc.errors import CheckpointError, DataError
from mindloc.reading import file_sha256
from mindloc.runtime.checkpoint import read_tensor_file, write_tensor_file
from mindloc.runtime.console import progress_bar
from mindloc.runtime.process import command_line

MAX_DIMENSION = 1024
OVERSAMPLING = 32
POWER_ITERATIONS = 2

_FORMAT = "mindloc.reduction"
_BLOCK_NUMBERS = 2**25  # float32 of a block: 128 MB


@dataclass(frozen=True)
class Reduction:
    """A linear map from D to E numbers, and its origin."""

    mean_D: np.ndarray  # float32
    component_DE: np.ndarray  # float32, orthonormal columns, the direction of largest variance first
    explained_share: float  # fraction of the variance of the rows it was fitted to, 0..1
    rows: int
    seed: int
    checkpoint_sha256: str | None  # of the encoder of these rows
    sha256: str | None = None  # of the reduction's own file; None: not saved yet

    @property
    def dimension(self) -> int:
        return self.component_DE.shape[1]

    def project(self, recall_ND: np.ndarray) -> np.ndarray:
        """The reduced rows, (N, E) float32, of unit length.

        Raises:
            DataError: the rows differ in width from those that the reduction was fitted to.
        """
        expected = len(self.mean_D)
        if recall_ND.ndim != 2 or recall_ND.shape[1] != expected:
            raise DataError(
                f"the reduction takes descriptors of dimension {expected}, but these have {recall_ND.shape[-1]}; keep "
                f"the image size, or fit another reduction: {_fitting()}"
            )
        reduced_NE = np.empty((len(recall_ND), self.dimension), np.float32)
        for first, block_BD in _centered(recall_ND, self.mean_D):
            reduced_NE[first : first + len(block_BD)] = block_BD @ self.component_DE
        length_N1 = np.linalg.norm(reduced_NE, axis=1, keepdims=True)
        return reduced_NE / np.maximum(length_N1, np.finfo(np.float32).tiny)


def fit_reduction(recall_ND: np.ndarray, dimension: int, seed: int, checkpoint_sha256: str | None = None) -> Reduction:
    """Find the ``dimension`` directions of largest variance by power iterations on seeded random directions.

    Args:
        recall_ND: recall vectors; a memory-mapped matrix is read in blocks of rows.
        dimension: 1 to the smallest of ``MAX_DIMENSION``, N and D.
        checkpoint_sha256: of the encoder that computed the rows.

    Raises:
        DataError: ``dimension`` is out of range, a row contains NaN, or all rows are equal.
    """
    _check(recall_ND)
    rows, width = recall_ND.shape
    most = min(MAX_DIMENSION, rows, width)
    if not 1 <= dimension <= most:
        raise DataError(
            f"{rows} vectors of width {width} can be reduced to 1 to {most} numbers, not {dimension}; set --dimension"
        )
    mean_D = _mean(recall_ND)
    sampled = min(dimension + OVERSAMPLING, rows, width)
    direction_DL = np.random.default_rng(seed).standard_normal((width, sampled))
    for _ in progress_bar(range(POWER_ITERATIONS), desc="power iterations"):
        range_NL = np.linalg.qr(_times(recall_ND, mean_D, direction_DL)[0])[0]
        direction_DL = np.linalg.qr(_transposed_times(recall_ND, mean_D, range_NL))[0]
    sample_NL, variance = _times(recall_ND, mean_D, direction_DL)
    if variance <= 0:
        raise DataError(f"all {rows} vectors are equal, so they have no variance to keep; check the encoder")
    range_NL = np.linalg.qr(sample_NL)[0]
    # rows = range (range^T rows): the basis times the singular vectors of the small factor gives those of the rows
    basis_DL, small_LL = np.linalg.qr(_transposed_times(recall_ND, mean_D, range_NL))
    turn_LL, singular_L, _ = np.linalg.svd(small_LL)
    component_DE = (basis_DL @ turn_LL[:, :dimension]).astype(np.float32)
    share = min(1.0, float(np.sum(singular_L[:dimension] ** 2) / variance))
    return Reduction(mean_D.astype(np.float32), component_DE, share, rows, seed, checkpoint_sha256)


def save_reduction(path: str | Path, reduction: Reduction) -> Reduction:
    """Write a reduction as a .safetensors file, atomically.

    Returns:
        The reduction with the sha256 of its file.

    Raises:
        CheckpointError: the disk is full or not writable; an older file remains.
    """
    metadata = {
        "format": _FORMAT,
        "checkpoint_sha256": reduction.checkpoint_sha256 or "",
        "rows": str(reduction.rows),
        "seed": str(reduction.seed),
        "explained_share": repr(reduction.explained_share),
    }
    arrays = {"mean": reduction.mean_D, "components": reduction.component_DE}
    return replace(reduction, sha256=write_tensor_file(Path(path), arrays, metadata, "reduction"))


def _fitting() -> str:
    """The command that fits a reduction."""
    return command_line("pca", "DIRECTORY", "--out", "FILE.safetensors")


def load_reduction(path: str | Path) -> Reduction:
    """Read a reduction from its file.

    Raises:
        DataError: the file is missing, damaged, or not a reduction.
    """
    path = Path(path)
    try:
        arrays, metadata = read_tensor_file(path)
        digest = file_sha256(path, DataError)
    except CheckpointError as error:
        raise DataError(f"reduction {path} can't be used: {error}") from None
    try:
        mean_D, component_DE = arrays["mean"], arrays["components"]
        rows, seed = int(metadata["rows"]), int(metadata["seed"])
        share, checkpoint = float(metadata["explained_share"]), metadata["checkpoint_sha256"] or None
        sound = (
            metadata["format"] == _FORMAT
            and 0 <= share <= 1
            and mean_D.ndim == 1
            and component_DE.ndim == 2
            and len(component_DE) == len(mean_D)
        )
        sound = sound and all(x.size and x.dtype == np.float32 and np.isfinite(x).all() for x in (mean_D, component_DE))
    except (KeyError, ValueError, IndexError, TypeError):
        sound = False
    if not sound:
        raise DataError(f"{path} is not a reduction of recall vectors; write one with: {_fitting()}")
    return Reduction(mean_D, component_DE, share, rows, seed, checkpoint, digest)


def require_origin(reduction: Reduction, checkpoint_sha256: str | None) -> None:
    """Check that a reduction was fitted to descriptors of the encoder with this checkpoint.

    Raises:
        DataError: it was fitted to those of a different checkpoint; the message names both.
    """
    if reduction.checkpoint_sha256 != checkpoint_sha256:
        fitted, given = ((sha256 or "none")[:12] for sha256 in (reduction.checkpoint_sha256, checkpoint_sha256))
        raise DataError(
            f"the reduction was fitted to descriptors of checkpoint {fitted}, but these are of checkpoint {given}; "
            f"use the reduction of checkpoint {given}, or fit one: {_fitting()}"
        )


def _check(recall_ND: np.ndarray) -> None:
    if recall_ND.ndim != 2 or not recall_ND.size:
        raise DataError(f"vectors of shape {recall_ND.shape} can't be reduced; give at least one row of numbers")


def _blocks(recall_ND: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, _BLOCK_NUMBERS // recall_ND.shape[1])
    for first in range(0, len(recall_ND), rows):
        yield first, np.asarray(recall_ND[first : first + rows], np.float32)


def _mean(recall_ND: np.ndarray) -> np.ndarray:
    total_D = np.zeros(recall_ND.shape[1])
    for first, block_BD in _blocks(recall_ND):
        broken_B = ~np.isfinite(block_BD).all(axis=1)
        if broken_B.any():
            row = first + int(np.flatnonzero(broken_B)[0])
            raise DataError(f"row {row} of the vectors contains NaN or infinity; the encoder's weights are broken")
        total_D += block_BD.sum(axis=0, dtype=np.float64)
    return total_D / len(recall_ND)


def _centered(recall_ND: np.ndarray, mean_D: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    mean_D = mean_D.astype(np.float32)
    for first, block_BD in _blocks(recall_ND):
        yield first, block_BD - mean_D


def _times(recall_ND: np.ndarray, mean_D: np.ndarray, direction_DL: np.ndarray) -> tuple[np.ndarray, float]:
    """Centered rows times directions, (N, L) float64, and the sum of the centered rows' squares."""
    product_NL = np.empty((len(recall_ND), direction_DL.shape[1]))
    direction_DL = direction_DL.astype(np.float32)
    squares = 0.0
    for first, block_BD in _centered(recall_ND, mean_D):
        product_NL[first : first + len(block_BD)] = block_BD @ direction_DL
        squares += float(np.sum(np.einsum("bd,bd->b", block_BD, block_BD), dtype=np.float64))
    return product_NL, squares


def _transposed_times(recall_ND: np.ndarray, mean_D: np.ndarray, range_NL: np.ndarray) -> np.ndarray:
    """Transposed centered rows times a basis of their range, (D, L) float64."""
    product_DL = np.zeros((recall_ND.shape[1], range_NL.shape[1]))
    for first, block_BD in _centered(recall_ND, mean_D):
        product_DL += block_BD.T @ range_NL[first : first + len(block_BD)].astype(np.float32)
    return product_DL
