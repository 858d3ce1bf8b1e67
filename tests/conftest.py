"""Fixtures that several rooms share."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_v", "3")  # before any test imports MindSpore: its warnings drown a report
_cache = tempfile.TemporaryDirectory(prefix="mindloc-tests-")  # removed with this process
os.environ["XDG_CACHE_HOME"] = _cache.name  # no test depends on the graphs that another test run kept


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Numbers made with PyTorch, timm and scikit-learn; reference/README.md says how."""
    return Path(__file__).parent / "reference"


@pytest.fixture(scope="session")
def mindloc_data() -> Path:
    root = os.environ.get("MINDLOC_DATA")
    if not root:
        pytest.skip("MINDLOC_DATA is not set: tests on the real flight, VIGOR and LLVIP are skipped")
    return Path(root)


@pytest.fixture(scope="session")
def adm_root(mindloc_data: Path) -> Path:
    """A real nadir flight over a river town in GTA-UAV's layout."""
    root = mindloc_data / "adm"
    if not root.is_dir():
        pytest.skip(f"{root} is missing: tests on the real flight are skipped")
    return root
