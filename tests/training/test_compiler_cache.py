"""A graph from the cache computes the same bits, and another graph is never taken for it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindloc.config import load_config
from mindloc.runtime import compiler_cache
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.compiler_cache import graph_key, source_digest
from mindloc.training.build import build_compiler_cache
from mindloc.training.compile_callback import no_cache

PROGRAM = Path(__file__).with_name("cached_step.py")
SOURCE = PROGRAM.parents[2] / "src"


ONLY_PLAIN = pytest.mark.parametrize("form", ["plain"], indirect=True)
ONLY_FUSED = pytest.mark.parametrize("form", ["fused"], indirect=True)


def start(
    folder: Path | str,
    form: str = "plain",
    k: float = 5.0,
    seed: int = 1,
    *more: str,
    source: Path = SOURCE,
    **environment: str,
) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    environment.pop("MS_COMPILER_CACHE_PATH", None)
    command = [sys.executable, str(PROGRAM), str(folder), form, str(k), str(seed), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def answer(process: subprocess.Popen) -> dict:
    """What the process found; what it computed afterwards must be right in any case."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    found = json.loads(out.splitlines()[-1])
    x = np.arange(len(found["later"]))
    np.testing.assert_allclose(found.pop("later"), (1.5 * x - x**2) * x, rtol=1e-6)
    return found


def graphs(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


@pytest.fixture(scope="module", params=["plain", "fused"])
def form(request) -> str:
    """Whether operators are fused: the default on a CPU is that they are."""
    return request.param


@pytest.fixture(scope="module")
def fresh(form) -> str:
    """Weights of the steps without any cache."""
    return answer(start("-", form))["weights"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, form, fresh) -> Path:
    """A cache that two processes filled at the same time."""
    folder = tmp_path_factory.mktemp("cache") / "graphs"
    answers = [answer(process) for process in (start(folder, form), start(folder, form))]
    assert [found["weights"] for found in answers] == [fresh, fresh]
    return folder


def test_two_processes_at_once_leave_one_graph_and_nothing_half_written(filled):
    assert len(list(filled.iterdir())) == len(graphs(filled)) == 1
    assert not any(path.is_symlink() for path in filled.rglob("*"))  # to the loops of the process that wrote it


def test_a_graph_from_the_cache_trains_the_same_bits(filled, form, fresh):
    assert answer(start(filled, form)) == {"there": True, "weights": fresh}
    assert len(list(filled.iterdir())) == 1  # the copy that was served is gone


def test_a_graph_from_the_cache_trains_the_weights_it_is_given(filled, form, fresh):
    without = answer(start("-", form, seed=2))["weights"]
    assert without != fresh
    assert answer(start(filled, form, seed=2)) == {"there": True, "weights": without}


@ONLY_FUSED
def test_a_graph_from_the_cache_finds_its_loops_wherever_they_are_kept_by_then(filled, form, fresh, tmp_path):
    found = answer(start(filled, form, XDG_CACHE_HOME=str(tmp_path)))
    assert found == {"there": True, "weights": fresh}
    assert any(tmp_path.rglob("*.so"))  # compiled anew, here


@ONLY_FUSED
def test_after_another_fused_graph_none_is_kept_or_found(filled, form, fresh, tmp_path):
    # MindSpore then keeps graphs beside the loops of all processes, and took the first one for any later training's
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    assert answer(start(filled, form, 5.0, 1, "earlier", **home)) == {"there": False, "weights": fresh}
    other = answer(start(filled, form, 1.0, 1, "earlier", **home))
    assert other == {"there": False, "weights": answer(start("-", form, k=1.0))["weights"]}
    assert not any(tmp_path.rglob("*.mindir"))


@ONLY_PLAIN
def test_another_constant_is_another_graph(filled, tmp_path, fresh):
    folder = shutil.copytree(filled, tmp_path / "graphs")
    found = answer(start(folder, k=1.0))
    assert not found["there"] and found["weights"] != fresh
    assert found["weights"] == answer(start("-", k=1.0))["weights"]


@ONLY_PLAIN
@pytest.mark.parametrize("damage", ["cut short", "one bit", "a file is gone"])
def test_a_damaged_graph_is_compiled_anew(filled, tmp_path, fresh, damage):
    folder = shutil.copytree(filled, tmp_path / "graphs")
    (graph,) = folder.rglob("*.mindir")
    data = bytearray(graph.read_bytes())
    graph.unlink()
    if damage == "cut short":
        graph.write_bytes(data[: len(data) // 2])
    elif damage == "one bit":
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
    assert answer(start(folder)) == {"there": False, "weights": fresh}
    assert answer(start(folder)) == {"there": True, "weights": fresh}  # it was mended


@ONLY_PLAIN
def test_a_process_killed_while_it_compiles_leaves_nothing_that_is_used(tmp_path, fresh):
    folder = tmp_path / "graphs"
    process = start(folder)
    deadline = time.monotonic() + 60
    while not (folder.is_dir() and any(folder.iterdir())):
        assert process.poll() is None, f"the process ended by itself, with {process.returncode}, and compiled nothing"
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail("the process has not begun to compile within 60 s")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert graphs(folder) == []
    assert answer(start(folder)) == {"there": False, "weights": fresh}


@ONLY_PLAIN
def test_a_changed_module_is_another_graph(filled, tmp_path, fresh):
    source = shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    module = source / "mindloc" / "losses" / "infonce.py"
    hours_ago = time.time() - 7200
    module.write_text(module.read_text() + "\n# a remark\n")
    os.utime(module, (hours_ago, hours_ago))  # the contents count, not the time
    folder = shutil.copytree(filled, tmp_path / "graphs")
    assert not answer(start(folder, source=source))["there"]


def test_a_module_edited_while_the_process_runs_keeps_graphs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler_cache, "_asked", False)
    monkeypatch.setattr(compiler_cache, "process_age_s", lambda: 10.0 * 365 * 86400)  # then every file is newer
    with compiler_cache.CompilerCache(tmp_path / "graphs", {}).serving() as there:
        assert not there
    assert not (tmp_path / "graphs").exists()


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """What a cache says, in a process that has asked for no graph yet and in which MindSpore hears of no folder."""
    monkeypatch.setattr(compiler_cache, "_asked", False)
    monkeypatch.setattr(compiler_cache, "process_age_s", lambda: 0.0)  # no file is newer
    monkeypatch.setattr(compiler_cache, "_told_to_mindspore", writing_a_graph)
    return []


@contextmanager
def writing_a_graph(folder: Path) -> Iterator[None]:
    yield
    (folder / "graph.mindir").write_text("in place of MindSpore")


def refusing(number: int) -> Callable:
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_folder_that_cannot_be_made_is_said_and_not_needed(tmp_path, said):
    (tmp_path / "file").write_text("")
    with compiler_cache.CompilerCache(tmp_path / "file" / "graphs", {}, said.append).serving() as there:
        assert not there
    assert len(said) == 1 and "compiled graphs are not kept: " in said[0] and "run.compiler_cache" in said[0]


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("share_kernels", errno.EPERM, "Operation not permitted"),  # e.g. a file system without links
        ("copy_sealed", errno.EACCES, "Permission denied"),  # e.g. the graph of another user
        ("put_sealed", errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_disk_that_refuses_is_said_and_leaves_nothing(tmp_path, monkeypatch, said, name, number, reason):
    monkeypatch.setattr(compiler_cache, name, refusing(number))
    with compiler_cache.CompilerCache(tmp_path, {}, said.append).serving() as there:
        assert not there
    assert said == [f"compiled graphs are not kept: {tmp_path}: {reason}; see run.compiler_cache"]
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_another_user_could_have_written_is_compiled_anew_with_a_word(tmp_path, monkeypatch, said):
    for open_to_others in ("graph", "folder"):
        folder = tmp_path / open_to_others
        with compiler_cache.CompilerCache(folder, {}, said.append).serving() as there:
            assert not there
        (graph,) = graphs(folder)
        opened = graph if open_to_others == "graph" else folder
        opened.chmod(0o770)
        for way_out, expected in ((0o770, False), (0o700, True)):
            opened.chmod(way_out)
            monkeypatch.setattr(compiler_cache, "_asked", False)
            with compiler_cache.CompilerCache(folder, {}, said.append).serving() as there:
                assert there == expected
        reason = "others may write there (chmod go-w)"
        assert said == [f"compiled graphs are not kept: {opened}: {reason}; see run.compiler_cache"]
        assert list(folder.iterdir()) == [graph]
        said.clear()
        monkeypatch.setattr(compiler_cache, "_asked", False)


def test_what_killed_processes_left_goes_with_the_next_start_even_if_nothing_is_kept(tmp_path, monkeypatch, said):
    with compiler_cache.CompilerCache(tmp_path, {}, said.append).serving():
        pass
    (tmp_path / ".writing-killed").mkdir()
    os.utime(tmp_path / ".writing-killed", (1000, 1000))
    monkeypatch.setattr(compiler_cache, "_asked", False)
    with compiler_cache.CompilerCache(tmp_path, {}, said.append).serving() as there:
        assert there and len(list(tmp_path.iterdir())) == 2  # the graph and the copy that is served
    assert said == [] and len(list(tmp_path.iterdir())) == 1


def test_only_what_bears_a_key_is_removed(tmp_path, monkeypatch, said):
    key = graph_key({}, ())
    assert len(key) == 32 and set(key) <= set("0123456789abcdef")
    foreign = ["website", key + "0", key[:-1] + "g", key.upper()]
    for name in [*foreign, "0" * 32]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "files.json").write_text("{}")
        os.utime(tmp_path / name / "files.json", (1000, 1000))
    monkeypatch.setattr(compiler_cache, "KEPT_GRAPHS", 1)
    with compiler_cache.CompilerCache(tmp_path, {}, said.append).serving() as there:
        assert not there
    assert {path.name for path in tmp_path.iterdir()} == {*foreign, key}


def test_a_graph_that_could_be_kept_needs_no_words(tmp_path, monkeypatch, said):
    for expected in (False, True):
        monkeypatch.setattr(compiler_cache, "_asked", False)
        with compiler_cache.CompilerCache(tmp_path, {}, said.append).serving() as there:
            assert there == expected
    assert said == [] and len(list(tmp_path.iterdir())) == 1


def inputs(rows: int = 4, dtype=np.float32) -> tuple:
    return (ms.Tensor(np.zeros((rows, 3, 8, 8), dtype)),)


def test_the_key_changes_with_facts_shapes_types_and_versions(monkeypatch):
    keys = [graph_key({"k": 5.0}, inputs()), graph_key({"k": 1.0}, inputs()), graph_key({"k": 5.0}, inputs(rows=2))]
    keys.append(graph_key({"k": 5.0}, inputs(dtype=np.float16)))
    assert keys[0] == graph_key({"k": 5.0}, inputs())
    monkeypatch.setattr(ms, "__version__", "2.8.1")
    keys.append(graph_key({"k": 5.0}, inputs()))
    assert len(set(keys)) == len(keys)


def test_the_source_counts_by_name_and_content(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    digests = [source_digest(tmp_path)]
    (tmp_path / "a.py").write_text("x = 2\n")
    digests.append(source_digest(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    digests.append(source_digest(tmp_path))
    (tmp_path / "notes.txt").write_text("no code")
    assert len(set(digests)) == 3 and source_digest(tmp_path) == digests[-1]


def cache_of(override: str, cluster: Cluster = ALONE, said: list | None = None):
    config = load_config(None, [f"run.compiler_cache={override}"])
    return build_compiler_cache(config, cluster, (said if said is not None else []).append)


def test_where_graphs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MS_COMPILER_CACHE_ENABLE", raising=False)
    assert cache_of("auto").__self__.folder == tmp_path / "mindloc" / "graphs"
    assert cache_of("auto", Cluster(0, 2)) is no_cache  # several ranks: only where somebody asks for it
    assert cache_of(str(tmp_path / "own"), Cluster(0, 2)).__self__.folder == tmp_path / "own"
    assert cache_of("none") is no_cache


def test_the_users_own_cache_is_left_to_him_with_a_word(monkeypatch):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    said = []
    assert cache_of("auto", said=said) is no_cache
    assert "does not notice a changed config" in said[0]
