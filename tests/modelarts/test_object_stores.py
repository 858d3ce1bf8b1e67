"""The three stores behave alike, and each speaks to its library as that library is."""

import importlib

import pytest
from mindloc.modelarts.obs_store import ObsStore

from mindloc.errors import StoreError
from mindloc.modelarts.stores import FolderStore, MoxingStore, Unavailable, build_store, find_moxing, join, patiently

FILES = {"a.txt": b"one", "deep/b.bin": b"three", "deep/er/c.bin": b"\0" * 11, "d": b""}


@pytest.fixture(params=["path", "moxing", "sdk"])
def url(request, image, monkeypatch, tmp_path) -> str:
    """An empty folder in a store of each kind."""
    if request.param == "path":
        return str(tmp_path / "remote")
    monkeypatch.setenv("FAKE_OBS", str(tmp_path / "obs"))
    (tmp_path / "obs").mkdir()
    monkeypatch.setenv("OBS_ENDPOINT", "https://obs.test")
    image("platform" if request.param == "moxing" else "sdk")
    if request.param == "sdk":
        monkeypatch.setitem(__import__("sys").modules, "moxing", None)  # import moxing fails, as without it
    return "obs://bucket/remote"


def test_what_is_sent_is_there_and_comes_back(url, tmp_path):
    store = build_store(url)
    for name, data in FILES.items():
        (tmp_path / "file").write_bytes(data)
        store.send(tmp_path / "file", join(url, name))
    assert store.names(url) == sorted(FILES)
    assert store.total_bytes(url) == 3 + 5 + 11
    assert store.size(join(url, "deep/b.bin")) == 5
    store.fetch_folder(url, tmp_path / "copy")
    assert {name: (tmp_path / "copy" / name).read_bytes() for name in FILES} == FILES
    store.fetch(join(url, "a.txt"), tmp_path / "alone" / "a.txt")
    assert (tmp_path / "alone" / "a.txt").read_bytes() == b"one"
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["a.txt"]
    store.remove(join(url, "a.txt"))
    store.remove(join(url, "a.txt"))
    assert store.names(url) == sorted(set(FILES) - {"a.txt"})


def test_nothing_there_is_an_answer(url):
    store = build_store(url)
    assert store.names(url) == []
    assert store.size(url) is None
    assert store.total_bytes(url) == 0


def test_a_folder_is_no_object(url, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    store = build_store(url)
    store.send(tmp_path / "file", join(url, "inner/file"))
    assert store.size(join(url, "inner")) is None


def test_moxing_comes_first_and_the_package_of_pypi_never(image, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_OBS", str(tmp_path))
    monkeypatch.setenv("OBS_ENDPOINT", "https://obs.test")
    image("sdk")
    image("pypi")
    assert find_moxing() is None
    assert isinstance(build_store("obs://bucket/x"), ObsStore)
    image("platform")
    assert isinstance(build_store("obs://bucket/x"), MoxingStore)
    assert isinstance(build_store("s3://bucket/x"), MoxingStore)
    assert isinstance(build_store("some/folder"), FolderStore)


def test_what_is_missing_is_said(image, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "moxing", None)
    monkeypatch.setitem(__import__("sys").modules, "obs", None)
    with pytest.raises(StoreError, match="pip install esdk-obs-python"):
        build_store("obs://bucket/x")
    image("sdk")
    monkeypatch.delenv("OBS_ENDPOINT", raising=False)
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    with pytest.raises(StoreError, match="set OBS_ENDPOINT"):
        build_store("obs://bucket/x")
    with pytest.raises(StoreError, match="neither a path nor a url of obs://, s3://"):
        build_store("http://host/x")


@pytest.fixture
def sdk(image, monkeypatch):
    """The module behind an ObsStore, and the store."""
    image("sdk")
    monkeypatch.setitem(__import__("sys").modules, "moxing", None)
    monkeypatch.setenv("OBS_ENDPOINT", "https://obs.test")
    store = build_store("obs://bucket/x")
    return importlib.import_module("obs"), store


def test_the_sdk_gets_endpoint_and_finds_the_keys_itself(sdk):
    options = sdk[0].clients[-1]
    assert options["server"] == "https://obs.test"
    assert options["security_provider_policy"] == "OBS_DEFAULT"


def test_a_listing_of_many_pages_is_whole_and_without_folder_marks(sdk):
    obs, store = sdk
    obs.objects.update({("bucket", f"x/{i:02}"): bytes(i) for i in range(7)})  # 4 pages of 2
    obs.objects["bucket", "x/"] = obs.objects["bucket", "x/sub/"] = b""
    obs.objects["bucket", "xylophone"] = b"of another folder"
    assert store.names("obs://bucket/x") == [f"{i:02}" for i in range(7)]
    assert store.total_bytes("obs://bucket/x/") == sum(range(7))


@pytest.mark.parametrize(("status", "kind"), [(0, Unavailable), (503, Unavailable), (429, Unavailable)])
def test_what_may_work_later_is_told_from_the_rest(sdk, status, kind, tmp_path):
    obs, store = sdk
    obs.answers[:] = [status]
    with pytest.raises(kind, match="getObjectMetadata obs://bucket/x"):
        store.size("obs://bucket/x")


def test_a_refusal_is_final(sdk):
    obs, store = sdk
    obs.answers[:] = [403]
    with pytest.raises(StoreError, match="status 403") as caught:
        store.size("obs://bucket/x")
    assert not isinstance(caught.value, Unavailable)


def test_a_second_attempt_fetches_only_what_is_missing(sdk, tmp_path, impatient):
    obs, store = sdk
    obs.objects.update({("bucket", f"x/{i}"): bytes([i]) * 3 for i in range(5)})
    obs.answers[:] = [200, 200, 200, 200, 500]  # three pages of the listing, one object, then trouble
    patiently(lambda: store.fetch_folder("obs://bucket/x", tmp_path / "copy"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == {
        str(i): bytes([i]) * 3 for i in range(5)
    }


def test_patience_ends(impatient, capsys):
    calls = []

    def fails():
        calls.append(1)
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        patiently(fails)
    assert len(calls) == 4 and capsys.readouterr().out.count("warning: no; trying again") == 3


def test_a_refusal_is_not_tried_again(impatient):
    calls = []

    def fails():
        calls.append(1)
        raise StoreError("never")

    with pytest.raises(StoreError):
        patiently(fails)
    assert len(calls) == 1
