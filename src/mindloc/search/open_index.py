"""A tile library from its address, whatever kind of index it is."""

from mindloc.search.faiss_index import load_faiss_index
from mindloc.search.index import TileIndex
from mindloc.search.milvus_connection import PREFIX as MILVUS_PREFIX
from mindloc.search.milvus_index import open_milvus_index


def open_index(address: str, memory_map: bool = True) -> TileIndex:
    """The library at ``milvus:...`` (see milvus_connection.py) or in a folder that FAISS wrote.

    Args:
        memory_map: leave the vectors of a folder in their files; the library can't be changed then.

    Raises:
        TileIndexError: missing, damaged, not to be reached, or no tile library.
        DeviceError: the library that reads it is not installed.
    """
    if address.startswith(MILVUS_PREFIX):
        return open_milvus_index(address)
    return load_faiss_index(address, memory_map)
