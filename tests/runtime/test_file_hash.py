"""A file's hash is that of its bytes, however many blocks it takes to read them."""

import hashlib

import pytest

from mindloc.runtime import files as file_hash
from mindloc.runtime.files import content_hash


@pytest.mark.parametrize("size", [0, 1, 6, 7])  # in blocks of 3: none, a part, whole ones, and one more byte
def test_a_hash_is_of_all_bytes_in_order(tmp_path, monkeypatch, size):
    monkeypatch.setattr(file_hash, "_READ_BYTES", 3)
    (tmp_path / "file").write_bytes(bytes(range(size)))
    assert content_hash(tmp_path / "file") == hashlib.sha256(bytes(range(size))).hexdigest()


def test_a_file_that_is_absent_has_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        content_hash(tmp_path / "file")
