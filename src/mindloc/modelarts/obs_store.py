"""The object store through Huawei's SDK, ``pip install esdk-obs-python`` (Apache-2.0), where there is no moxing.

The SDK finds the keys by itself: OBS_ACCESS_KEY_ID, OBS_SECRET_ACCESS_KEY and OBS_SECURITY_TOKEN in the environment, or
those of the virtual machine it runs on.
"""

import importlib
import os
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mindloc.errors import StoreError, one_line
from mindloc.modelarts.object_store import Unavailable, arriving, join

ENDPOINT_VARIABLES = ("OBS_ENDPOINT", "S3_ENDPOINT")  # the second is what ModelArts sets
_THREADS = 8
_MAY_WORK_LATER = (408, 429)  # of the answers below 500


def build_obs_store(url: str) -> "ObsStore":
    """The store for ``obs://`` urls, at the endpoint that the environment names.

    Raises:
        StoreError: the SDK or the endpoint is missing.
    """
    try:
        client_class = importlib.import_module("obs").ObsClient
    except (ImportError, AttributeError):
        raise StoreError(
            f"{url} can't be read: neither ModelArts' moxing nor the SDK is here; pip install esdk-obs-python"
        ) from None
    endpoint = next((os.environ[name] for name in ENDPOINT_VARIABLES if os.environ.get(name)), None)
    if endpoint is None:
        raise StoreError(f"{url} can't be read: set OBS_ENDPOINT, like https://obs.cn-north-4.myhuaweicloud.com")
    # the SDK checks no certificate unless it is told the file of the authorities; ModelArts says by 0 where it has none
    authorities = os.environ.get("S3_VERIFY_SSL") != "0" and ssl.get_default_verify_paths().cafile
    return ObsStore(
        client_class(server=endpoint, security_provider_policy="OBS_DEFAULT", ssl_verify=authorities or False)
    )


class ObsStore:
    """``ObsClient``: an answer below 300 is a success, listings come in pages."""

    def __init__(self, client: Any):
        self._client = client

    def names(self, url: str) -> list[str]:
        return sorted(self._sizes(url))

    def size(self, url: str) -> int | None:
        answer = self._call("getObjectMetadata", url, accept=(404,))
        return None if answer.status == 404 else int(answer.body.contentLength)

    def total_bytes(self, url: str) -> int:
        return sum(self._sizes(url).values())

    def fetch(self, url: str, path: Path) -> None:
        with arriving(path) as temporary:
            self._call("getObject", url, downloadPath=str(temporary))

    def fetch_folder(self, url: str, folder: Path) -> None:
        sizes = self._sizes(url)
        if not sizes:
            raise StoreError(f"{url} holds nothing; name the folder that the data lies in")
        missing = [name for name, size in sizes.items() if _size_on_disk(folder / name) != size]
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda name: self.fetch(join(url, name), folder / name), missing):
                pass  # the first failure is raised here, and what has not begun is dropped
        for name in missing:
            if _size_on_disk(folder / name) != sizes[name]:
                raise Unavailable(f"{join(url, name)} has {sizes[name]} bytes, {folder / name} has not")

    def send(self, path: Path, url: str) -> None:
        self._call("putFile", url, str(path))

    def remove(self, url: str) -> None:
        self._call("deleteObject", url, accept=(404,))

    def _sizes(self, url: str) -> dict[str, int]:
        """Name under the folder -> bytes; the empty objects that stand for folders are left out."""
        prefix = split_url(f"{url.rstrip('/')}/")[1]
        sizes, marker = {}, None
        while True:
            body = self._call("listObjects", url, key=None, prefix=prefix, marker=marker).body
            for content in body.contents:
                if not content.key.endswith("/"):
                    sizes[content.key.removeprefix(prefix)] = int(content.size)
            if not body.is_truncated:
                return sizes
            marker = body.next_marker or body.contents[-1].key

    def _call(self, function: str, url: str, *arguments: Any, accept: tuple[int, ...] = (), **options: Any) -> Any:
        bucket, key = split_url(url)
        place = (bucket,) if "key" in options else (bucket, key)
        options.pop("key", None)
        try:
            answer = getattr(self._client, function)(*place, *arguments, **options)
        except Exception as error:  # sockets, TLS, the SDK's own; each is passed on as one of ours
            raise Unavailable(f"{function} {url}: {one_line(error)}") from error
        if answer.status < 300 or answer.status in accept:
            return answer
        may_work_later = answer.status >= 500 or answer.status in _MAY_WORK_LATER
        kind = Unavailable if may_work_later else StoreError
        raise kind(f"{function} {url}: status {answer.status}, {answer.errorMessage or answer.reason}")


def split_url(url: str) -> tuple[str, str]:
    """(bucket, key) of ``obs://bucket/key``"""
    bucket, _, key = url.partition("://")[2].partition("/")
    return bucket, key


def _size_on_disk(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
