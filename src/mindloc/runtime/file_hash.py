"""The hash that tells whether a file holds the bytes it held."""

import hashlib
from pathlib import Path

_READ_BYTES = 1 << 22


def content_hash(path: Path) -> str:
    """sha256 of a file of any size, hexadecimal; raises OSError as reading does."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
