"""Words that every part of the program shares: sides of a pair, views, descriptors, modes of pairs, precisions."""

from dataclasses import dataclass
from typing import Literal, get_args

SideName = Literal["query", "reference"]
SIDES: tuple[SideName, ...] = get_args(SideName)

# what a side may show; a reader says which two views its pairs have
VIEWS = ("drone", "satellite", "ground", "visible", "infrared")

GLOBAL = "global"  # the one descriptor of an encoder without a head
OMEGA, PHI = "omega", "phi"  # of two stages: the first recalls, the second re-ranks
CENTROIDS = "centroids"  # where the nodes of PHI lie; no images are compared by it

PairMode = Literal["pos", "pos_semipos"]  # tiles that overlap enough, or also partly
MODES: tuple[PairMode, ...] = get_args(PairMode)

Precision = Literal["fp32", "fp16", "bf16"]  # of products and activations
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class ViewSpec:
    """What one side of a pair shows, and how its images are brought to the encoder."""

    name: str  # one of VIEWS
    size_px: tuple[int, int]  # height, width
    cut_border: float = 0.0  # share cropped from each side before everything else
    rotate: bool = False  # in training: by multiples of 90 degrees
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # of pixels scaled to 0..1
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
