"""Seeded mutations of files and words: of bytes, of what is at a path, and of values where the format is known.

A mutation of a file that states a checksum is signed again half of the time, so that what is behind the checksum is
reached too. ``SIDE_EFFECT`` is a file that appears where a pickle or a YAML tag is executed.
"""

import contextlib
import copy
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from mindloc.errors import MindlocError
from mindloc.reading import checksum, file_checksum, file_sha256, json_checksum
from mindloc.runtime.checkpoint import read_tensor_file, write_tensor_file

SIDE_EFFECT = "executed"
NAMES = ["it's", 'a "b"', "a b", "a\nb", "\x1b[31mred", "a\u2028b", "\udc80\udcff", "東方", "x" * 255]
NAMES += ["-x", "a=b", "[1]", "%s{}"]
WORDS = ["", "-1", "0", "1", "nan", "inf", "1e400", "9" * 400, "null", "[]", "{a: 1}", "1,2", "x" * 5000, ".."]
WORDS += ["/dev/null"]
VALUES: list[Any] = [None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]
VALUES += ["", "x", "x" * 3000, "../../etc/passwd", "a\0b", "nan", "\ud800", [], {}, [[]], [None], {"": 0}]
VALUES += [["x"], [1, 2], *NAMES[:8]]
YAML_TAG = f'!!python/object/apply:os.system ["touch {SIDE_EFFECT}"]'
JSON_FORMATS, TENSORS, IMAGES = (".json", ".jsonl"), (".safetensors",), (".png", ".jpg", ".JPG", ".tif")


class Executed:
    """Pickled, it makes a file where it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {SIDE_EFFECT}",)


def hostile_text(chance: random.Random) -> bytes:
    """Bytes that no reader expects."""
    return chance.choice(
        [
            b"",
            b"\xef\xbb\xbf",
            b"\xff\xfe\x00\xd8",
            "東方".encode("gbk"),
            b"[" * 200_000,
            b'{"a":' * 50_000,
            b"\0" * 70_000,
            b"{}",
            b"[]",
            b"null",
            b'"' + b"x" * 70_000,
            pickle.dumps(Executed()),
            YAML_TAG.encode(),
            b"&a [*a]",
            b"a: &a [1]\nb: [*a,*a]",
            chance.randbytes(300),
        ]
    )


def mutate_file(path: Path, others: list[Path], chance: random.Random) -> str:
    """Change what is at ``path``, a file; returns what was done, in words."""
    kinds: list[Callable] = [_bytes, _bytes, _place, _encoding, lambda *_: _swap(path, others, chance)]
    kinds += [_structure] * 5
    kind = chance.choice(kinds)
    return f"{path}: {kind(path, chance)}"


def _rewrite(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # it may be a hard link to the original
    path.write_bytes(data)


def _bytes(path: Path, chance: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = chance.choice(["flip", "cut", "append", "insert", "zero", "hostile"])
    if kind == "flip" and data:
        for _ in range(chance.choice([1, 1, 3, 20])):
            data[chance.randrange(min(len(data), chance.choice([16, 300, 10**9])))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(len(data) + 1) :]
    elif kind == "append":
        data += chance.choice([b"\0", b"\n", b"}", chance.randbytes(50)])
    elif kind == "insert":
        place = chance.randrange(len(data) + 1)
        data[place:place] = hostile_text(chance)[:500]
    elif kind == "zero":
        place = chance.randrange(len(data) + 1)
        data[place : place + 64] = bytes(len(data[place : place + 64]))
    else:
        data = bytearray(hostile_text(chance))
    signed = _rewrite_signed(path, bytes(data), chance)
    return f"{kind}{signed}"


def _encoding(path: Path, chance: random.Random) -> str:
    encoding = chance.choice(["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "gbk", "cp037"])
    end = chance.choice(["\n", "\r\n", "\r", "\u2028"])
    text = path.read_bytes().decode("utf-8", "replace").replace("\n", end)
    return f"{encoding} with {end!r}{_rewrite_signed(path, text.encode(encoding, 'replace'), chance)}"


def _place(path: Path, chance: random.Random) -> str:
    """Something else that has a name in a directory."""
    kinds = ["missing", "directory", "pipe", "device", "endless", "loop", "dangling", "large", "link", "renamed"]
    kind = chance.choice(kinds)
    if kind == "renamed":
        new = f"{chance.choice(NAMES)[:200]}{path.suffix}"
        path.rename(path.with_name(new))
        return f"renamed to {new!a}"
    if kind == "link":
        aside = path.with_name(f"aside {path.name}")
        path.rename(aside)
        path.symlink_to(aside.name)
        return kind
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 27)
    elif kind != "missing":
        path.symlink_to({"device": "/dev/null", "endless": "/dev/zero", "loop": path.name, "dangling": "nowhere"}[kind])
    return kind


def _swap(path: Path, others: list[Path], chance: random.Random) -> str:
    other = chance.choice(others)
    if not other.is_file():
        return "unchanged"
    data = other.read_bytes()
    return f"content of {other}{_rewrite_signed(path, data, chance)}"


def _structure(path: Path, chance: random.Random) -> str:
    """A mutation that keeps the format; of bytes where the format is not known."""
    try:
        if path.suffix in JSON_FORMATS:
            return _json(path, chance)
        if path.suffix in TENSORS:
            return _tensors(path, chance)
        by_suffix: dict[str, Callable] = {".yaml": _yaml, ".npy": _array, ".csv": _table, ".pth": _zip, ".txt": _lines}
        by_suffix |= dict.fromkeys(IMAGES, _image)
        return by_suffix.get(path.suffix, _bytes)(path, chance)
    except Exception:  # an earlier mutation broke the format
        return _bytes(path, chance) if path.is_file() else "unchanged"


def mutate_value(tree: Any, chance: random.Random) -> str:
    """Change a value somewhere in lists and dicts; returns where and to what."""
    place, where = tree, ""
    while True:
        keys = list(place if isinstance(place, dict) else range(len(place)))
        if not keys:
            return "unchanged"
        key = chance.choice(keys)
        where += f".{key}"[:80]
        if isinstance(place[key], (dict, list)) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        return f"{where} {_change(place, key, chance)}"


def _change(place: Any, key: Any, chance: random.Random) -> str:
    kind = chance.choice(["value", "value", "value", "delete", "sign", "more", "copy"])
    if kind == "delete":
        del place[key]
    elif kind == "sign" and isinstance(place[key], (int, float)):
        place[key] = -place[key]
    elif kind == "more" and isinstance(place, dict):
        place[chance.choice([*NAMES, "unknown"])] = 1
    elif kind == "copy" and isinstance(place, list):
        place.insert(key, copy.deepcopy(place[key]))
    else:
        place[key] = copy.deepcopy(chance.choice(VALUES))
        kind = f"= {str(place[key])[:40]!a}"
    return kind


def _json(path: Path, chance: random.Random) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        tree = json.loads(text)
        said = mutate_value(tree, chance)
        return said + _rewrite_signed(path, _dumped(tree), chance)
    rows = [json.loads(line) for line in text.splitlines()]
    said = mutate_value(rows, chance)
    return said + _rewrite_signed(path, b"\n".join(map(_dumped, rows)) + b"\n", chance)


def _dumped(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def _yaml(path: Path, chance: random.Random) -> str:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    said = mutate_value(tree, chance)
    text = yaml.safe_dump(tree, allow_unicode=chance.random() < 0.5)
    if chance.random() < 0.15:
        text, said = text + f"\nrun2: {YAML_TAG}\n", f"{said}, tag"
    _rewrite(path, text.encode("utf-8", "surrogatepass"))
    return said


def _table(path: Path, chance: random.Random) -> str:
    rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    row = chance.choice(rows)
    row[chance.randrange(len(row))] = value = str(chance.choice(VALUES + WORDS))
    _rewrite(path, "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass"))
    return f"cell {value[:40]!a}"


def _lines(path: Path, chance: random.Random) -> str:
    _rewrite(path, "\n".join(chance.choices([*NAMES, "1.png", "", "2.png"], k=3)).encode("utf-8", "surrogatepass"))
    return "names"


def _zip(path: Path, chance: random.Random) -> str:
    """A container of PyTorch with another pickle, or with a damaged one."""
    with zipfile.ZipFile(path) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    name = chance.choice(sorted(parts))
    data = bytearray(parts[name])
    if chance.random() < 0.3:
        data = bytearray(pickle.dumps(Executed(), protocol=2))
    for _ in range(chance.choice([1, 3, 10])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    parts[name] = bytes(data)
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as new:
        for part, content in parts.items():
            new.writestr(part, content)
    _rewrite(path, whole.getvalue())
    return f"inside {name}"


def _array(path: Path, chance: random.Random) -> str:
    array, sink = np.load(path), io.BytesIO()
    kind = chance.choice(["nan", "shape", "type", "objects", "header", "huge"])
    if kind == "nan" and array.dtype.kind == "f" and array.size:
        array.reshape(-1)[chance.randrange(array.size)] = chance.choice([np.nan, np.inf, 1e38, 0])
    elif kind == "shape":
        array = chance.choice([array.reshape(-1), array[:0], array[:-1], array.T, array[..., :0], array[None]])
    elif kind == "type":
        array = array.astype(chance.choice(["f8", "f2", "i4", "c8", "S3", ">f4", "?"]))
    elif kind == "objects":
        array = np.array([Executed()], dtype=object)
    np.save(sink, array, allow_pickle=True)
    data = bytearray(sink.getvalue())
    if kind == "header":
        data[chance.randrange(6, 80)] = chance.randrange(256)
    elif kind == "huge":
        data = bytearray(bytes(data).replace(b"'shape': (", b"'shape': (99999999999, "))
    return kind + _rewrite_signed(path, bytes(data), chance)


def _tensors(path: Path, chance: random.Random) -> str:
    """Other metadata or arrays, with the right checksum."""
    arrays, metadata = read_tensor_file(path)
    kind = chance.choice(["section", "section", "metadata", "array", "name"])
    sections = [key for key, text in metadata.items() if text.startswith("{")]
    if kind == "section" and sections:
        key = chance.choice(sections)
        tree = json.loads(metadata[key])
        kind = f"{key}{mutate_value(tree, chance)}"
        metadata[key] = chance.choice([json.dumps(tree)] * 6 + ["[" * 100_000, "[]", "{", ""])
    elif kind == "metadata" and metadata:
        key = chance.choice(sorted(metadata))
        metadata[key] = chance.choice(["", "x", "nan", "-1", "9" * 5000, "{}", "東方\x1b"])
        kind = f"{key}={metadata[key][:20]!a}"
    else:
        name = chance.choice(sorted(arrays))
        array = arrays.pop(name)
        nan = array * np.float32("nan")
        changed = [array, array[:0], array.reshape(-1), array.astype(np.int64), nan, array[..., None]]
        arrays[f"{name}x" if kind == "name" else name] = chance.choice(changed)
        kind = f"{kind} {name}"
    with contextlib.suppress(OSError):
        path.unlink()
    write_tensor_file(path, arrays, metadata, "fuzz")
    return kind


def _image(path: Path, chance: random.Random) -> str:
    kind = chance.choice(["small", "gray", "alpha", "deep", "format", "header"])
    side = chance.choice([1, 2, 33])
    pixels = {"gray": (side, side), "alpha": (side, side, 4)}.get(kind, (side, side, 3))
    image = np.full(pixels, 77, np.uint16 if kind == "deep" else np.uint8)
    suffix = chance.choice([".bmp", ".webp", ".tiff", ".jpg", ".png"]) if kind == "format" else ".png"
    data = bytearray(cv2.imencode(suffix, image)[1])
    if kind == "header":
        sizes = [b"\0" * 8, b"\0\0\xff\xff" * 2, b"\x7f\xff\xff\xff" * 2, b"\0\0\0\x01\0\1\0\0"]
        data[16 : 16 + 8] = chance.choice(sizes)
    _rewrite(path, bytes(data))
    return f"{kind} {suffix}"


def _rewrite_signed(path: Path, data: bytes, chance: random.Random) -> str:
    """Write; half of the time with the checksums that go with it, where the directory states some."""
    _rewrite(path, data)
    if chance.random() < 0.5:
        return ""
    with contextlib.suppress(Exception):  # an earlier mutation broke the format
        return " signed" if sign(path) else ""
    return ""


def sign(path: Path) -> bool:
    """State the checksums that belong to a changed file of ours; whether any is stated for it."""
    directory = path.parent
    if any(not (beside.is_file() or beside.is_dir()) for beside in directory.iterdir()):
        return False  # a pipe would be waited for
    if (directory / "descriptors.npy").is_file() and path.name in ("card.json", "rows.jsonl", "descriptors.npy"):
        _sign_set(directory)
    elif (directory / "vectors.faiss").is_file():
        _sign_index(directory, path)
    elif path.name in ("setup.json", "truth.jsonl", "constant.json"):
        _sign_setup(directory if path.name != "constant.json" else directory.parent)
    elif (card := path.with_name(f"{path.name}.json")).is_file():
        facts = json.loads(card.read_text())
        _rewrite(card, _dumped({**facts, "sha256": file_sha256(path, MindlocError)}))
    else:
        return False
    return True


def _sign_set(directory: Path) -> None:
    card = json.loads((directory / "card.json").read_text())
    card.pop("checksum", None)
    matrix = np.load(directory / "descriptors.npy")
    rows = checksum((directory / "rows.jsonl").read_bytes())
    card["checksum"] = json_checksum([card, checksum(np.ascontiguousarray(matrix).data).hexdigest(), rows.hexdigest()])
    _rewrite(directory / "card.json", _dumped(card))


def _sign_index(directory: Path, changed: Path) -> None:
    facts = json.loads((directory / "card.json").read_text())
    if changed.name != "card.json":
        whole = {"bytes": changed.stat().st_size, "checksum": file_checksum(changed, MindlocError)}
        facts["files"][changed.name] = whole
    facts.pop("checksum", None)
    _rewrite(directory / "card.json", _dumped({**facts, "checksum": json_checksum(facts)}))


def _sign_setup(directory: Path) -> None:
    setup = json.loads((directory / "setup.json").read_text())
    setup.pop("checksum", None)
    if isinstance(setup.get("files"), dict):
        setup["files"] = {name: file_checksum(directory / name, MindlocError) for name in setup["files"]}
    _rewrite(directory / "setup.json", _dumped({**setup, "checksum": json_checksum(setup)}))


def copy_inputs(inputs: Path, directory: Path) -> None:
    """A copy in which large files, which nothing changes in place, are hard links."""

    def link_or_copy(source: str, target: str) -> None:
        if os.stat(source).st_size > 1 << 16:
            os.link(source, target)
        else:
            shutil.copy2(source, target)

    shutil.copytree(inputs, directory, copy_function=link_or_copy)
