"""When operators are fused, where their loops lie, and what is said where they can't be."""

import os
from pathlib import Path

import mindspore as ms
import pytest

from mindloc.errors import DeviceError
from mindloc.runtime import operator_fusion
from mindloc.runtime.operator_fusion import (
    fuse_operators,
    is_fused,
    kernel_place,
    nothing_left_behind,
    share_kernels,
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
    find = operator_fusion.importlib.util.find_spec
    monkeypatch.setattr(
        operator_fusion.importlib.util, "find_spec", lambda name: None if name == "decorator" else find(name)
    )


def test_a_cpu_fuses_and_keeps_its_loops_in_the_users_cache(tmp_path):
    assert fuse_operators("CPU", "auto") == ", fused operators"
    assert is_fused()
    assert kernel_place() == tmp_path / "cache" / "mindloc" / f"mindspore-{ms.__version__}" / "akg_kernel_meta"
    assert kernel_place().stat().st_mode & 0o777 == 0o700  # what lies there is run
    assert os.environ["AKG_WHITE_LIST_PATH"] == "set by the user"


def test_exponentials_are_left_out():
    fuse_operators("CPU", "always")
    assert "--disable_cluster_ops=Exp" in ms.get_context("graph_kernel_flags")


def test_never_is_never_and_takes_it_back():
    fuse_operators("CPU", "always")
    assert fuse_operators("CPU", "never") == ""
    assert not is_fused()


@pytest.mark.parametrize("target", ["GPU", "Ascend"])
def test_other_devices_are_left_alone(target):
    assert fuse_operators(target, "auto") == ""
    assert not is_fused()
    with pytest.raises(DeviceError, match=f"operator_fusion is always, but .* the target is {target}"):
        fuse_operators(target, "always")


def test_without_its_package_the_reason_is_told(no_decorator):
    assert "pip install decorator" in why_not_fused("CPU")
    assert "operators not fused (operator fusion needs the package decorator" in fuse_operators("CPU", "auto")
    assert not is_fused()
    with pytest.raises(DeviceError, match="pip install decorator"):
        fuse_operators("CPU", "always")


def test_a_home_without_write_access_gets_a_temporary_place(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fuse_operators("CPU", "auto")
    assert kernel_place().parent.is_dir() and tmp_path not in kernel_place().parents


def test_graphs_that_are_kept_share_the_loops(tmp_path):
    fuse_operators("CPU", "auto")
    for _ in range(2):  # the second time the link is there
        share_kernels(tmp_path)
    assert (tmp_path / "akg_kernel_meta").resolve() == kernel_place().resolve()


def test_nothing_is_shared_unless_fused(tmp_path):
    share_kernels(tmp_path)
    assert not list(tmp_path.glob("akg*"))


def test_only_a_log_that_is_new_is_taken_away(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log = Path("dsa_transfrom.log")
    with nothing_left_behind():
        log.write_text("AKG's")
    assert not log.exists()
    log.write_text("the user's")
    with nothing_left_behind():
        pass
    assert log.read_text() == "the user's"
