"""Strict readers, one per format: text, lines, JSON, JSON Lines, CSV, arrays; and hashes of files.

A file may come from another program, or be damaged or hostile. Each reader takes regular files only, never runs or
unpickles what they contain, and reports every problem on one line: the file, the line number if any, the way out.
"""

import codecs
import csv
import hashlib
import json
import math
import mmap
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING, Any, BinaryIO

from mindloc.errors import MindlocError, one_line

if TYPE_CHECKING:
    import numpy as np
    import xxhash

_JSON_KINDS: dict[type, str] = {dict: "an object", list: "a list"}
_SPECIAL = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
_ENCODINGS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_DELIMITERS = ",;\t"
# of NumPy on the header of a .npy file, which is Python's text of a dict
_HEADER_ERRORS = (ValueError, KeyError, EOFError, RecursionError, MemoryError, SyntaxError, TypeError, TokenError)


@contextmanager
def regular_file(
    path: str | Path, error: type[MindlocError], way_out: str, what: str = "", most_bytes: int | None = None
) -> Iterator[BinaryIO]:
    """Open a file for reading after a check that it is a regular file: reading a pipe or a device might never end.

    Args:
        error: class of the exception.
        way_out: last part of the message.
        what: the kind of file in words, such as "rank table"; may be empty.
        most_bytes: a larger file is an error and is not read.

    Raises:
        MindlocError: (raised as the class ``error``) the file is missing, unreadable, not a regular file or too large,
            or reading it fails inside the ``with`` block.
    """
    where = f"{what} {path}".lstrip()
    try:
        # a pipe without a writer would block
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                kind = next((name for test, name in _SPECIAL if test(facts.st_mode)), "a device")
                raise error(f"{where} is {kind}, expected a file; {way_out}")
            if most_bytes is not None and facts.st_size > most_bytes:
                raise error(f"{where} has {facts.st_size} bytes; expected at most {most_bytes}; {way_out}")
            yield file
    except IsADirectoryError:
        raise error(f"{where} is a directory, expected a file; {way_out}") from None
    except OSError as reason:
        raise error(f"{where} can't be read: {reason.strerror or reason}; {way_out}") from None
    except ValueError as reason:  # a path with a NUL byte
        raise error(f"{where!a:.200} can't be read: {one_line(reason)[:120]}; {way_out}") from None


def read_bytes(
    path: str | Path, error: type[MindlocError], way_out: str, what: str = "", most_bytes: int | None = None
) -> bytes:
    """The whole content of a file; arguments and errors are those of ``regular_file``."""
    with regular_file(path, error, way_out, what, most_bytes) as file:
        return file.read()


def read_text(
    path: str | Path, error: type[MindlocError], way_out: str, what: str = "", most_bytes: int | None = None
) -> str:
    """The text of a file in UTF-8, or in UTF-16 if it starts with a byte order mark.

    Args:
        error, way_out, what, most_bytes: see ``regular_file``.

    Raises:
        MindlocError: for the reasons given in ``regular_file``, or because the text has a different encoding.
    """
    data = read_bytes(path, error, way_out, what, most_bytes)
    mark, encoding = next((pair for pair in _ENCODINGS if data.startswith(pair[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as reason:
        line = data[: reason.start].decode(encoding, "replace").count("\n") + 1
        where = f"{what} {path}".lstrip()
        raise error(
            f"{where} line {line} is not text in {encoding.upper()}; save the file as UTF-8; {way_out}"
        ) from None


def read_lines(path: str | Path, error: type[MindlocError], way_out: str, what: str = "") -> list[str]:
    """The lines of a text file without their line ends, which may be those of Unix, Windows or old Macs.

    The other line separators of Unicode do not end a line, since names may contain them.
    """
    text = read_text(path, error, way_out, what).replace("\r\n", "\n").replace("\r", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def read_json(
    path: Path,
    error: type[MindlocError],
    what: str,
    way_out: str,
    kind: type = dict,
    most_bytes: int | None = None,
) -> Any:
    """The value in a JSON file.

    Args:
        error, what, way_out, most_bytes: see ``regular_file``.
        kind: dict or list, required type of the top level.

    Raises:
        MindlocError: for the reasons given in ``read_text``, or because the content is not JSON or not a ``kind``.
    """
    where = f"{what} {path}".lstrip()
    try:
        value = json.loads(read_text(path, error, way_out, what, most_bytes))
    except (ValueError, RecursionError) as reason:
        raise error(f"{where} can't be read as JSON ({one_line(reason)[:120]}); {way_out}") from None
    if not isinstance(value, kind):
        raise error(f"{where} contains a JSON {type(value).__name__}, expected {_JSON_KINDS[kind]}; {way_out}")
    return value


def read_json_lines(path: Path, error: type[MindlocError], way_out: str) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) for each line of a JSON Lines file; ``where`` names file and line, for messages.

    Raises (while iterating):
        MindlocError: for the reasons given in ``read_text``, or because a line is not JSON.
    """
    for number, line in enumerate(read_lines(path, error, way_out), 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise error(f"{path} line {number} is not JSON: {line[:60]!r}; {way_out}") from None
        yield f"{path} line {number}", value


def read_csv(path: Path, error: type[MindlocError], way_out: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (where, cells) for each non-empty row of a table, including the header; cells are stripped of blanks.

    The separator is the comma, semicolon or tab, whichever occurs most often in the header.

    Raises (while iterating):
        MindlocError: for the reasons given in ``read_text``, or because a row is not CSV.
    """
    lines = read_lines(path, error, way_out)
    delimiter = max(_DELIMITERS, key=lines[0].count) if lines else ","
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(rows, None)
        except csv.Error as reason:
            raise error(f"{path} line {rows.line_num} is not CSV: {one_line(reason)}; {way_out}") from None
        if row is None:
            return
        if any(cell.strip() for cell in row):
            yield f"{path} line {rows.line_num}", [cell.strip() for cell in row]


def read_array(path: Path, error: type[MindlocError], way_out: str, memory_map: bool = False) -> "np.ndarray":
    """The array of a .npy file, read whole or mapped into memory.

    Args:
        error, way_out: see ``regular_file``.

    Raises:
        MindlocError: for the reasons given in ``regular_file``, or because the file is not a .npy file, contains Python
            objects, or has a size that differs from its header.
    """
    import numpy as np  # imported here, since the command doctor works without it

    with regular_file(path, error, way_out) as file:
        try:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = header[version](file)
        except _HEADER_ERRORS as reason:
            raise error(f"{path} is not a .npy file ({one_line(reason)[:120]}); {way_out}") from None
        if dtype.hasobject:
            raise error(f"{path} contains Python objects, expected numbers; {way_out}")
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        expected = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or size - start != expected:
            raise error(f"{path} has {size - start} bytes of data, but its header says {expected}; {way_out}")
        order = "F" if fortran_order else "C"
        if memory_map and expected:
            return np.memmap(file, dtype, "r", start, shape, order)
        flat = np.fromfile(file, dtype, math.prod(shape))
        return flat.reshape(shape, order=order)


def is_unicode(text: str) -> bool:
    """Whether the text can be written as UTF-8: JSON and names of files may contain halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def checksum(data: "bytes | memoryview" = b"") -> "xxhash.xxh3_128":
    """A checksum that can be updated, ten times as fast as sha256; it detects damage, not forgery."""
    import xxhash  # imported here, since the command doctor works without it

    return xxhash.xxh3_128(data)


def json_checksum(value: Any) -> str:
    """The hexadecimal checksum of a value that JSON can express; the order of keys does not matter."""
    return checksum(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_checksum(path: Path, error: type[MindlocError], what: str = "") -> str:
    """The hexadecimal checksum of a file of any size; arguments and errors are those of ``file_sha256``."""
    return _digest_of(path, checksum(), error, what)


def file_sha256(path: Path, error: type[MindlocError], what: str = "") -> str:
    """The hexadecimal sha256 of a file of any size. Results identify the checkpoint that they come from by it.

    Args:
        error, what: see ``regular_file``.

    Raises:
        MindlocError: for the reasons given in ``regular_file``.
    """
    return _digest_of(path, hashlib.sha256(), error, what)


def _digest_of(path: Path, digest: Any, error: type[MindlocError], what: str) -> str:
    with regular_file(path, error, "check the path and its permissions", what) as file:
        if os.fstat(file.fileno()).st_size:  # an empty file can't be mapped
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:  # no copy, unlike reading
                digest.update(content)
    return digest.hexdigest()
