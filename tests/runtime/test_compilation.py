"""Operator fusion: when it is used, where loops are cached, and the messages if either is not possible."""

import os
import platform
from pathlib import Path

import mindspore as ms
import pytest

from mindloc.errors import DeviceError
from mindloc.runtime import compilation
from mindloc.runtime.compilation import (
    failing_clearly,
    fuse_operators,
    is_fused,
    kernel_place,
    nothing_left_behind,
    why_not_fused,
)


@pytest.fixture(autouse=True)
def own_context(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MS_COMPILER_CACHE_PATH", raising=False)
    monkeypatch.setenv("AKG_WHITE_LIST_PATH", "set by the user")
    yield
    ms.set_context(enable_graph_kernel=False, graph_kernel_flags="")
    os.environ.pop("MS_COMPILER_CACHE_PATH", None)


@pytest.fixture
def no_decorator(monkeypatch):
    find = compilation.importlib.util.find_spec
    monkeypatch.setattr(
        compilation.importlib.util, "find_spec", lambda name: None if name == "decorator" else find(name)
    )


def directory_of(machine: str) -> str:
    return f"mindspore-{ms.__version__}-{machine}"


def test_a_cpu_fuses_and_caches_its_loops_in_the_users_cache(tmp_path):
    assert fuse_operators("CPU", "auto") == ", fused operators"
    assert is_fused()
    assert kernel_place() == tmp_path / "cache" / "mindloc" / directory_of(platform.machine()) / "akg_kernel_meta"
    assert kernel_place().stat().st_mode & 0o777 == 0o700  # its files are executed
    assert os.environ["AKG_WHITE_LIST_PATH"] == "set by the user"


def test_processor_families_have_different_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64" if os.uname().machine != "aarch64" else "x86_64")
    fuse_operators("CPU", "auto")
    assert kernel_place().parent == tmp_path / "cache" / "mindloc" / directory_of(platform.machine())


def test_exponentials_are_not_fused():
    fuse_operators("CPU", "always")
    assert "--disable_cluster_ops=Exp" in ms.get_context("graph_kernel_flags")


def test_never_switches_fusion_off():
    fuse_operators("CPU", "always")
    assert fuse_operators("CPU", "never") == ""
    assert not is_fused()


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
def test_other_devices_do_not_fuse(target):
    assert fuse_operators(target, "auto") == ""
    assert not is_fused()
    with pytest.raises(DeviceError, match=f"operator_fusion is always, but .* the target is {target}"):
        fuse_operators(target, "always")


def test_a_missing_package_is_the_stated_reason(no_decorator):
    assert "pip install decorator" in why_not_fused("CPU")
    assert "operators not fused (operator fusion needs the package decorator" in fuse_operators("CPU", "auto")
    assert not is_fused()
    with pytest.raises(DeviceError, match="pip install decorator"):
        fuse_operators("CPU", "always")


def test_a_home_without_write_access_uses_a_temporary_directory(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = fuse_operators("CPU", "auto")
    assert kernel_place().parent.is_dir() and tmp_path not in kernel_place().parents
    assert f", fused operators, loops not cached ({tmp_path / 'file'}" in said and "set XDG_CACHE_HOME" in said
    assert fuse_operators("CPU", "auto") == said  # the second call finds the directory set


@pytest.mark.parametrize(
    ("name", "answer", "reason"),
    [("getuid", -1, "owned by another user"), ("access", False, "no write permission")],
)
def test_an_existing_directory_without_access_uses_a_temporary_directory(tmp_path, monkeypatch, name, answer, reason):
    directory = tmp_path / "cache" / "mindloc" / directory_of(platform.machine()) / "akg_kernel_meta"
    directory.mkdir(mode=0o700, parents=True)
    monkeypatch.setattr(compilation.os, name, lambda *arguments: answer)
    assert f"akg_kernel_meta: {reason}; set XDG_CACHE_HOME)" in fuse_operators("CPU", "auto")
    assert tmp_path not in kernel_place().parents


def test_loops_that_other_users_could_have_written_are_not_used(tmp_path):
    directory = tmp_path / "cache" / "mindloc" / directory_of(platform.machine()) / "akg_kernel_meta"
    directory.mkdir(parents=True)
    directory.chmod(0o770)
    assert "akg_kernel_meta: writable by other users (chmod go-w); set XDG_CACHE_HOME)" in fuse_operators("CPU", "auto")
    assert tmp_path not in kernel_place().parents


def test_a_directory_set_by_the_user_is_used_unchecked(tmp_path, monkeypatch):
    monkeypatch.setenv("MS_COMPILER_CACHE_PATH", str(tmp_path / "own"))
    monkeypatch.setattr(compilation.os, "access", lambda *arguments: False)
    assert fuse_operators("CPU", "auto") == ", fused operators"
    assert kernel_place() == tmp_path / "own" / "akg_kernel_meta"


def test_only_a_new_log_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Path("dsa_transfrom.log")
    with nothing_left_behind():
        log.write_text("AKG's")
    assert not log.exists()
    log.write_text("the user's")
    with nothing_left_behind():
        pass
    assert log.read_text() == "the user's"


def test_a_loop_that_akg_cannot_compile_names_the_way_out():
    fuse_operators("CPU", "auto")
    with pytest.raises(DeviceError, match="run.operator_fusion=never"), failing_clearly():
        raise RuntimeError("Response is empty.\n- C++ Call Stack")
    with pytest.raises(RuntimeError, match="another"), failing_clearly():
        raise RuntimeError("another failure")


def test_an_error_without_fusion_is_not_attributed_to_it():
    with pytest.raises(RuntimeError, match="Response is empty"), failing_clearly():
        raise RuntimeError("Response is empty")
