"""The numbers of a library in a folder as options: FaissParameters, and which kinds of index have which."""

import argparse
from collections.abc import Iterable

from mindloc.errors import ConfigError
from mindloc.retrieval.faiss_kinds import FaissParameters, resolve

_DEFAULT = resolve("hnsw", 1, 0, FaissParameters())  # what this kind leaves open is filled in
PARAMETERS = {  # all whole numbers
    "nlist": "ivf: lists; default: by the number of tiles",
    "nprobe": "ivf: lists compared per query; default: by nlist",
    "pq_bytes": "ivf_pq: bytes per tile, a divisor of the dimension; default: about a quarter of it",
    "refine": "ivf_pq: this many times the answers are scored by whole vectors, which are kept for it; "
    f"default: {_DEFAULT.refine}",
    "links": f"hnsw: neighbors per tile; default: {_DEFAULT.links}",
    "ef_construction": f"hnsw: candidates while building; default: {_DEFAULT.ef_construction}",
    "ef_search": f"hnsw: candidates while searching; default: {_DEFAULT.ef_search}",
    "train_rows": f"ivf: tiles to learn from at most; default: {_DEFAULT.train_rows}",
    "seed": f"ivf: of the sample to learn from; default: {_DEFAULT.seed}",
}
WHILE_SEARCHING = ("nprobe", "refine", "ef_search")  # may be others than those of building

_IVF = ("nlist", "nprobe", "train_rows", "seed")
_OF_KIND = {
    "flat": (),
    "ivf_flat": _IVF,
    "ivf_pq": (*_IVF, "pq_bytes", "refine"),
    "hnsw": ("links", "ef_construction", "ef_search"),
}


def given_parameters(args: argparse.Namespace, names: Iterable[str]) -> dict[str, int]:
    """Those of these options that stand on the command line."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def require_parameters_of(kind: str, given: Iterable[str]) -> None:
    """Refuse options that an index of this kind would not heed.

    Raises:
        ConfigError: naming them.
    """
    unfit = [f"--{name}" for name in given if name not in _OF_KIND.get(kind, ())]
    if unfit:
        raise ConfigError(f"{', '.join(unfit)} means nothing to an index of kind {kind}; leave it out or take another")
