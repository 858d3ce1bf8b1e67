"""Milvus' filter expressions for tiles by name and for tiles in a box, whatever the names are made of."""

from collections.abc import Sequence

import numpy as np

from mindloc.retrieval.tile_index import Box

UNKNOWN = 1e300  # as a coordinate where nobody knows the place: no box holds it


def named(names: Sequence[str]) -> str:
    """Expression: the tiles of these names. Lists that pymilvus makes itself end at the first ' in a name."""
    return f"name in [{', '.join(_quoted(name) for name in names)}]"


def _quoted(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def within(box: Box) -> str:
    """Expression: the tiles in a box, edges included."""
    low_a, low_b, high_a, high_b = (_number(edge) for edge in (*box.low, *box.high))
    return f"place_a >= {low_a} and place_a <= {high_a} and place_b >= {low_b} and place_b <= {high_b}"


def _number(value: float) -> str:
    """Infinite edges stay below the mark of an unknown place."""
    return repr(float(np.clip(float(value), -UNKNOWN / 10, UNKNOWN / 10)))
