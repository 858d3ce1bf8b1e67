"""A store in memory that fails on request and records its calls in order."""

from pathlib import Path

from mindloc.modelarts.stores import Unavailable


class UnreliableStore:
    """Objects by url. ``failing``: parts of names that can't be written now; ``on_send`` is called first."""

    def __init__(self):
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []  # "send checkpoints/x", "remove checkpoints/y"
        self.failing: set[str] = set()
        self.loses_the_end = False
        self.on_send = lambda name: None

    def names(self, url: str) -> list[str]:
        return sorted(key.removeprefix(f"{url}/") for key in self.objects if key.startswith(f"{url}/"))

    def size(self, url: str) -> int | None:
        return len(self.objects[url]) if url in self.objects else None

    def send(self, path: Path, url: str) -> None:
        name = url.partition("out/")[2]
        self.on_send(name)
        self.calls.append(f"send {name}")
        self._refuse(name)
        data = path.read_bytes()
        self.objects[url] = data[:-1] if self.loses_the_end else data

    def remove(self, url: str) -> None:
        name = url.partition("out/")[2]
        self.calls.append(f"remove {name}")
        self._refuse(name)
        del self.objects[url]

    def _refuse(self, name: str) -> None:
        if any(part in name for part in self.failing):
            raise Unavailable(f"{name}: status 503")
