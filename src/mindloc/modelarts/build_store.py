"""The store that a url lies in: moxing in ModelArts' own images, Huawei's SDK elsewhere, a folder for a path."""

from mindloc.errors import StoreError
from mindloc.modelarts.folder_store import FolderStore
from mindloc.modelarts.moxing_store import MoxingStore, find_moxing
from mindloc.modelarts.object_store import Store, is_remote
from mindloc.modelarts.obs_store import build_obs_store

REMOTE_SCHEMES = ("obs", "s3")


def build_store(url: str) -> Store:
    """The store that a url lies in.

    Raises:
        StoreError: a scheme that is not known, or no library here that reads it.
    """
    if not is_remote(url):
        return FolderStore()
    scheme = url.partition("://")[0]
    if scheme not in REMOTE_SCHEMES:
        raise StoreError(f"{url} is neither a path nor a url of {', '.join(f'{s}://' for s in REMOTE_SCHEMES)}")

    moxing = find_moxing()
    return MoxingStore(moxing) if moxing else build_obs_store(url)
