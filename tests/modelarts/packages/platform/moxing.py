"""A stand-in for the moxing of ModelArts' images: obs://bucket/key is FAKE_OBS/bucket/key.

FAKE_OBS_FAILS, like {"copy": [2, 5]}: which calls of a function fail in this process, counted from 1. A copy_parallel
that fails leaves half of the files behind, the last of them halved. FAKE_OBS_SLOW_S: seconds that each copy takes.
FAKE_OBS_GATE: a file; copies wait until it is there. Every call is noted in FAKE_OBS/calls.txt.
"""

import collections
import json
import os
import shutil
import time
from pathlib import Path

_ROOT = Path(os.environ["FAKE_OBS"])
_FAILS = json.loads(os.environ.get("FAKE_OBS_FAILS", "{}"))
_calls = collections.Counter()


def _path(url):
    return _ROOT / url.partition("://")[2].rstrip("/") if "://" in url else Path(url)


def _note(function, url):
    _calls[function] += 1
    with open(_ROOT / "calls.txt", "a", encoding="utf-8") as notes:
        notes.write(f"{function} {url}\n")
    if function.startswith("copy"):
        time.sleep(float(os.environ.get("FAKE_OBS_SLOW_S", "0")))
        while not Path(os.environ.get("FAKE_OBS_GATE", "/")).exists():
            time.sleep(0.02)
    return _calls[function] in _FAILS.get(function, [])


class _MoxException(Exception):
    pass


class file:
    @staticmethod
    def exists(url):
        return _path(url).exists()

    @staticmethod
    def is_directory(url):
        return _path(url).is_dir()

    @staticmethod
    def get_size(url, recursive=False):
        path = _path(url)
        if path.is_dir():  # 0 without recursive, as in moxing
            return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) if recursive else 0
        return path.stat().st_size

    @staticmethod
    def list_directory(url, recursive=False):
        found = _path(url).rglob("*") if recursive else _path(url).iterdir()
        return [path.relative_to(_path(url)).as_posix() + ("/" if path.is_dir() else "") for path in found]

    @staticmethod
    def copy(source, target):
        if _note("copy", target):
            raise _MoxException("status 503: slow down")
        path = _path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_path(source), path.with_name(path.name + ".part"))
        os.replace(path.with_name(path.name + ".part"), path)

    @staticmethod
    def copy_parallel(source, target):
        fails = _note("copy_parallel", source)
        files = sorted(path for path in _path(source).rglob("*") if path.is_file())
        for path in files[: len(files) // 2] if fails else files:
            copy = _path(target) / path.relative_to(_path(source))
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if fails:
            copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
            raise _MoxException("connection reset")

    @staticmethod
    def remove(url, recursive=False):
        _note("remove", url)
        _path(url).unlink()
