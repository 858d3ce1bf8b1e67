"""The three meanings of checkpoint_url, and when train_url may be written."""

from pathlib import Path

from mindloc.errors import StoreError
from mindloc.modelarts.build_store import build_store
from mindloc.modelarts.incoming import bring_file, bring_folder, start_id
from mindloc.modelarts.object_store import join, patiently
from mindloc.modelarts.run_files import CHECKPOINTS
from mindloc.runtime.checkpoint import BEST_WEIGHTS, END_WEIGHTS, WEIGHTS_SUFFIX


def bring_checkpoint(url: str | None, train_url: str, scratch: Path) -> tuple[Path | None, Path | None]:
    """(weights to begin from, run to go on with), each None when there is none.

    Raises:
        StoreError: ``checkpoint_url`` is neither.
    """
    if url is None:
        return None, None
    store = build_store(url)
    if patiently(lambda: store.size(join(url, "config.yaml"))) is not None:
        return None, bring_folder(store, url, scratch, start_id())
    if patiently(lambda: store.size(url)) is not None:
        return bring_file(store, url, scratch, start_id()), None
    if _same(url, train_url) and not patiently(lambda: store.names(url)):
        print(f"{url} is empty: this is the first start of a job that may be started again", flush=True)
        return None, None
    raise StoreError(f"checkpoint_url {url} is neither a file of weights nor a run folder, which has a config.yaml")


def weights_url(url: str) -> str:
    """A file itself; of a run folder its best weights, or its last where no epoch was evaluated.

    Raises:
        StoreError: neither is there.
    """
    store = build_store(url)
    of_a_run = (f"{CHECKPOINTS}{name}{WEIGHTS_SUFFIX}" for name in (BEST_WEIGHTS, END_WEIGHTS))
    for candidate in (url, *(join(url, name) for name in of_a_run)):
        if patiently(lambda candidate=candidate: store.size(candidate)) is not None:
            return candidate
    raise StoreError(f"checkpoint_url {url} is no file, and has neither best nor end weights in checkpoints/")


def require_own_place(url: str, checkpoint_url: str | None) -> None:
    """Refuse to write a run over another one."""
    store = build_store(url)
    if _same(url, checkpoint_url) or patiently(lambda: store.size(join(url, "config.yaml"))) is None:
        return
    raise StoreError(f"train_url {url} holds a run; give a new folder, or go on with that run: --checkpoint_url {url}")


def _same(url: str, other: str | None) -> bool:
    return other is not None and url.rstrip("/") == other.rstrip("/")
