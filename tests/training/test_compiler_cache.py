"""A graph from the cache computes the same bits, and another graph is never taken for it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindloc.config import load_config
from mindloc.runtime import compiler_cache
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.runtime.compiler_cache import graph_key, remove_oldest, source_digest
from mindloc.training.build import build_compiler_cache
from mindloc.training.compile_callback import no_cache

PROGRAM = Path(__file__).with_name("cached_step.py")
SOURCE = PROGRAM.parents[2] / "src"


def start(folder: Path | str, *arguments: str, source: Path = SOURCE) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def answer(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def graphs(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


@pytest.fixture(scope="module")
def fresh() -> str:
    """Weights of the steps without any cache."""
    return answer(start("-"))["weights"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, fresh) -> Path:
    """A cache that two processes filled at the same time."""
    folder = tmp_path_factory.mktemp("cache") / "graphs"
    answers = [answer(process) for process in (start(folder), start(folder))]
    assert [found["weights"] for found in answers] == [fresh, fresh]
    return folder


def test_two_processes_at_once_leave_one_graph_and_nothing_half_written(filled):
    assert len(list(filled.iterdir())) == len(graphs(filled)) == 1


def test_a_graph_from_the_cache_trains_the_same_bits(filled, fresh):
    assert answer(start(filled)) == {"there": True, "weights": fresh}


def test_another_constant_is_another_graph(filled, tmp_path, fresh):
    folder = shutil.copytree(filled, tmp_path / "graphs")
    found = answer(start(folder, "1.0"))
    assert not found["there"] and found["weights"] != fresh
    assert found["weights"] == answer(start("-", "1.0"))["weights"]


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


def test_a_process_killed_while_it_compiles_leaves_nothing_that_is_used(tmp_path, fresh):
    folder = tmp_path / "graphs"
    process = start(folder)
    while not (folder.is_dir() and any(folder.iterdir())):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert graphs(folder) == []
    assert answer(start(folder)) == {"there": False, "weights": fresh}


def test_a_changed_module_is_another_graph(filled, tmp_path, fresh):
    source = shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    module = source / "mindloc" / "losses" / "infonce.py"
    hours_ago = time.time() - 7200
    module.write_text(module.read_text() + "\n# a remark\n")
    os.utime(module, (hours_ago, hours_ago))  # the contents count, not the time
    assert not answer(start(filled, source=source))["there"]


def test_a_module_edited_while_the_process_runs_keeps_graphs_out(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler_cache, "_asked", False)
    monkeypatch.setattr(compiler_cache, "process_age_s", lambda: 10.0 * 365 * 86400)  # then every file is newer
    with compiler_cache.CompilerCache(tmp_path / "graphs", {}).serving() as there:
        assert not there
    assert not (tmp_path / "graphs").exists()


def test_a_folder_that_cannot_be_made_is_said_and_not_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler_cache, "_asked", False)
    monkeypatch.setattr(compiler_cache, "process_age_s", lambda: 0.0)  # no file is newer
    (tmp_path / "file").write_text("")
    said = []
    with compiler_cache.CompilerCache(tmp_path / "file" / "graphs", {}, said.append).serving() as there:
        assert not there
    assert len(said) == 1 and "compiled graphs are not kept: " in said[0] and "run.compiler_cache" in said[0]


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


def test_the_graphs_used_last_are_kept(tmp_path):
    for age, name in enumerate(["a", "b", "c", "d"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "files.json").write_text("{}")
        os.utime(tmp_path / name / "files.json", (1000 - age, 1000 - age))
    for name, age_s in ((".writing-now", 0), (".writing-killed", 2 * 86400)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - age_s, time.time() - age_s))
    remove_oldest(tmp_path, kept=2)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", ".writing-now"}


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
