"""A directory and moxing behave alike; calls that fail for a while are retried."""

import sys

import pytest

from mindloc.errors import StoreError
from mindloc.modelarts.stores import (
    DirectoryStore,
    MoxingStore,
    Unavailable,
    build_store,
    find_moxing,
    join,
    with_retries,
)

FILES = {"a.txt": b"one", "deep/b.bin": b"three", "deep/er/c.bin": b"\0" * 11, "d": b""}


@pytest.fixture(params=["path", "moxing"])
def url(request, image, monkeypatch, tmp_path) -> str:
    """An empty directory in a store of each kind."""
    if request.param == "path":
        return str(tmp_path / "remote")
    monkeypatch.setenv("FAKE_OBS", str(tmp_path / "obs"))
    (tmp_path / "obs").mkdir()
    image("platform")
    return "obs://bucket/remote"


def send_files(url, tmp_path):
    store = build_store(url)
    for name, data in FILES.items():
        (tmp_path / "file").write_bytes(data)
        store.send(tmp_path / "file", join(url, name))
    return store


def test_a_sent_file_exists_until_it_is_removed(url, tmp_path):
    store = send_files(url, tmp_path)
    assert store.names(url) == sorted(FILES)
    assert store.size(join(url, "deep/b.bin")) == 5
    store.remove(join(url, "a.txt"))
    store.remove(join(url, "a.txt"))
    assert store.names(url) == sorted(set(FILES) - {"a.txt"})


@pytest.mark.parametrize("url", ["moxing"], indirect=True)
def test_sent_files_can_be_fetched(url, tmp_path):
    store = send_files(url, tmp_path)
    assert store.total_bytes(url) == 3 + 5 + 11 and store.total_bytes(join(url, "nothing")) == 0
    store.fetch_directory(url, tmp_path / "copy")
    assert {name: (tmp_path / "copy" / name).read_bytes() for name in FILES} == FILES
    store.fetch(join(url, "a.txt"), tmp_path / "alone" / "a.txt")
    assert (tmp_path / "alone" / "a.txt").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["a.txt"]


def test_a_missing_object_is_not_an_error(url):
    store = build_store(url)
    assert store.names(url) == []
    assert store.size(url) is None


def test_a_directory_is_not_an_object(url, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    store = build_store(url)
    store.send(tmp_path / "file", join(url, "inner/file"))
    assert store.size(join(url, "inner")) is None


def test_urls_are_read_by_huaweis_moxing_and_never_by_the_package_of_pypi(image, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_OBS", str(tmp_path))
    image("pypi")
    assert find_moxing() is None
    with pytest.raises(
        StoreError, match="obs://bucket/x can't be reached: moxing, which ModelArts' images contain, is not"
    ):
        build_store("obs://bucket/x")
    image("platform")
    assert isinstance(build_store("obs://bucket/x"), MoxingStore)
    assert isinstance(build_store("s3://bucket/x"), MoxingStore)
    assert isinstance(build_store("some/directory"), DirectoryStore)


def test_missing_moxing_and_unknown_schemes_are_errors(monkeypatch):
    monkeypatch.setitem(sys.modules, "moxing", None)  # import moxing fails, as without it
    with pytest.raises(StoreError, match="can't be reached: moxing.* copy the data to this machine and give its"):
        build_store("obs://bucket/x")
    with pytest.raises(StoreError, match="neither a path nor a url of obs://, s3://; give one of these"):
        build_store("http://host/x")


def test_the_last_retry_raises(without_pauses, capsys):
    calls = []

    def fails():
        calls.append(1)
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        with_retries(fails)
    assert len(calls) == 4 and capsys.readouterr().out.count("warning: no; trying again") == 3


def test_a_lasting_failure_is_not_retried(without_pauses):
    calls = []

    def fails():
        calls.append(1)
        raise StoreError("never")

    with pytest.raises(StoreError):
        with_retries(fails)
    assert len(calls) == 1
