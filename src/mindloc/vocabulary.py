"""Names that all packages share: sides of a pair, descriptors, modes of pairs, precisions."""

from dataclasses import dataclass
from typing import Literal, get_args

SideName = Literal["query", "reference"]
SIDES: tuple[SideName, ...] = get_args(SideName)

GLOBAL = "global"  # the one descriptor of an encoder without a head
OMEGA, PHI = "omega", "phi"  # of a two-stage head: the first recalls, the second re-ranks
CENTROIDS = "centroids"  # image positions of PHI's nodes; never compared between images

PairMode = Literal["pos", "pos_semipos"]  # correct tiles: those that overlap enough, or also those that overlap partly
MODES: tuple[PairMode, ...] = get_args(PairMode)

Precision = Literal["fp32", "fp16", "bf16"]  # of matrix products and activations
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class ViewSpec:
    """View of one side of a pair, and how its images become the encoder's input."""

    name: str  # what the images show, such as "drone"; named in the registry entry of the reader
    size_px: tuple[int, int]  # height, width
    cut_border: float = 0.0  # fraction of height and width cropped at each border, before any other step
    rotate: bool = False  # training only: by multiples of 90 degrees
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels scaled to 0..1
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
