"""Packages that stand in for a platform image's own, and stores without long pauses."""

import importlib
import sys
from pathlib import Path

import pytest

from mindloc.modelarts import stores as object_store

PACKAGES = Path(__file__).parent / "packages"


@pytest.fixture
def image(monkeypatch):
    """A function that puts the packages of one kind of image before all others and returns the reimported module."""

    def choose(kind: str) -> None:
        monkeypatch.syspath_prepend(str(PACKAGES / kind))
        monkeypatch.delitem(sys.modules, "moxing", raising=False)
        importlib.invalidate_caches()

    yield choose
    sys.modules.pop("moxing", None)


@pytest.fixture
def bucket(image, monkeypatch, tmp_path) -> Path:
    """The directory behind obs://bucket on an image with moxing."""
    monkeypatch.setenv("FAKE_OBS", str(tmp_path / "obs"))
    (tmp_path / "obs" / "bucket").mkdir(parents=True)
    image("platform")
    return tmp_path / "obs" / "bucket"


@pytest.fixture
def without_pauses(monkeypatch):
    """The same number of attempts, without the pauses."""
    monkeypatch.setattr(object_store, "PAUSES_S", (0.0, 0.0, 0.0))
