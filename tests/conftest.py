"""Shared by all tests: their order, time limits against hanging, default signals, a private cache, a few fixtures."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# order of the tests: texts, then packages without MindSpore, then the others; slow tests run last
FIRST = ("test_architecture.py", "test_readme.py", "test_guides.py", "test_site.py", "config", "geo", "world", "data")
FIRST += ("descriptors", "evaluation", "search", "launch", "modelarts", "doctor", "runtime", "losses", "models")
FIRST += ("inference", "export", "training", "cli")
SLOW_LIMIT_S = 1200  # for slow tests, instead of [tool.pytest.ini_options] timeout: only ends a test that hangs

os.environ.setdefault("GLOG_v", "3")  # before any test imports MindSpore: only errors, not pages of warnings
_cache = tempfile.TemporaryDirectory(prefix="mindloc-tests-")  # removed with this process
os.environ["XDG_CACHE_HOME"] = _cache.name  # no test reuses fused operators that another run or worker has built

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Reset inherited signal handling: background jobs of a script ignore SIGINT, nohup ignores SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_LIMIT_S))

    def place(item: pytest.Item) -> tuple[bool, int]:
        part = item.path.relative_to(tests).parts[0]
        return item.get_closest_marker("slow") is not None, FIRST.index(part) if part in FIRST else len(FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True)
def advice(monkeypatch) -> Iterator[None]:
    """The commands, options and settings that errors of a test name as the way out exist."""
    from mindloc.errors import MindlocError

    said: set[str] = set()

    def remembered(error: MindlocError, *arguments: object) -> None:
        said.update(map(str, arguments))
        super(MindlocError, error).__init__(*arguments)

    monkeypatch.setattr(MindlocError, "__init__", remembered)
    yield
    monkeypatch.undo()
    advising = [message for message in said if "--" in message or "mindloc " in message or "=" in message]
    if advising:
        from advice import wrong_advice

        assert [f"{wrong}, in: {message}" for message in advising for wrong in wrong_advice(message)] == []


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Expected numbers computed with PyTorch, timm and scikit-learn; reference/README.md states how."""
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


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A read-only directory that all tests of a run share, created by the first worker that needs it."""
    base = factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made = directory.with_suffix(".made")
    with FileLock(directory.with_suffix(".lock")):
        if not made.exists():
            make(directory)
            made.touch()
    return directory


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """A generated world of 48 drone images, the data of ``small_world.SETTINGS``."""
    from small_world import world_words

    from mindloc.cli import main

    def make(directory: Path) -> None:
        assert main(["world", str(directory), *world_words(drones=48)]) == 0

    return made_once(tmp_path_factory, "tiny_world", make)


@pytest.fixture(scope="session")
def tiny_run(tiny_world, tmp_path_factory) -> Path:
    """The run directory of a training run with ``small_world.RUN_SETTINGS``; copy it before you change or resume it."""
    from small_world import RUN_SETTINGS, set_words, trained

    def make(directory: Path) -> None:
        trained(*set_words({**RUN_SETTINGS, "data.root": tiny_world}), "--run_dir", directory)

    return made_once(tmp_path_factory, "tiny_run", make)
