"""Writers and readers of one index or one extraction at the same time, with writers killed at seeded random moments.

``python concurrent_processes.py index DIRECTORY SECONDS SEED`` (or ``set``) forks four writers and four readers and
kills a writer now and then; a new writer replaces it. Every process notes in ``DIRECTORY/NAME.log`` what it is about to
do and what it has done. The program prints a JSON object of counts, and fails with the reader's message if a read was
incomplete or an acknowledged change was lost.
"""

import json
import os
import random
import signal
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mindloc.descriptors.sets import DescriptorSet, DescriptorWriter, load_descriptor_sets, make_rows
from mindloc.search.build import add_tiles, build_index, remove_tiles
from mindloc.search.extraction import Extracted
from mindloc.search.faiss_index import load_faiss_index

WRITERS = READERS = 4
WIDTH, ROWS = 8, 40
CARD = {"view": "satellite", "place_unit": None, "checkpoint_sha256": "abc"}


class Log:
    """A log of lines ``word value``, each written by one call, so that a kill leaves complete lines."""

    def __init__(self, path: Path):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, word: str, value: object) -> None:
        os.write(self._file, f"{word} {value}\n".encode())


def noted(directory: Path) -> dict[str, set[str]]:
    """word -> its values in all logs."""
    found: dict[str, set[str]] = {word: set() for word in ("adding", "added", "removing", "removed", "wrote", "read")}
    for log in directory.glob("*.log"):
        for line in log.read_text().split("\n")[:-1]:  # the last is empty, or half a line
            word, value = line.split()
            found[word].add(value)
    return found


def vectors_of(name: str) -> tuple[np.ndarray, np.ndarray]:
    """(recall, re-rank) vectors of a tile, of unit length."""
    pair = np.random.default_rng(zlib.crc32(name.encode())).standard_normal((2, WIDTH)).astype(np.float32)
    return tuple(pair / np.linalg.norm(pair, axis=1, keepdims=True))


def extracted(names: list[str]) -> Extracted:
    omega, phi = (np.array(part) for part in zip(*map(vectors_of, names), strict=True))
    rows, card = make_rows(names, None), {**CARD, "dimension": WIDTH, "nodes": 2}
    sets = [
        DescriptorSet(matrix, rows, {**card, "descriptor": name}) for name, matrix in (("omega", omega), ("phi", phi))
    ]
    return Extracted(*sets, reduction=None)


def change_index(target: Path, log: Log, name: str, chance: random.Random) -> None:
    own: list[str] = []
    for count in range(10**9):
        if own and chance.random() < 0.4:
            tile = own.pop(chance.randrange(len(own)))
            log.note("removing", tile)
            remove_tiles(str(target), [tile])
            log.note("removed", tile)
        else:
            own.append(f"{name}-{count}")
            log.note("adding", own[-1])
            add_tiles(str(target), extracted([own[-1]]))
            log.note("added", own[-1])


def tiles_in(target: Path, memory_map: bool) -> set[str]:
    """Names of an index's tiles, after a check that each vector belongs to its name."""
    index = load_faiss_index(target, memory_map)
    names = [name for name, alive in zip(index._table.names, index._table.alive_N, strict=True) if alive]
    np.testing.assert_allclose(index.rerank_vectors(names), [vectors_of(name)[1] for name in names], atol=1e-6)
    some = names[:: max(1, len(names) // 5)]
    found = index.recall(np.array([vectors_of(name)[0] for name in some]), 1).names
    assert [[name] for name in some] == found, f"{some} are found as {found}"
    return set(names)


def read_index(target: Path, log: Log, name: str, chance: random.Random) -> None:
    for count in range(10**9):
        before = noted(target.parent)
        names = tiles_in(target, memory_map=chance.random() < 0.5)
        after = noted(target.parent)
        assert not (lost := before["added"] - after["removing"] - names), f"lost: {lost}"
        assert not (back := before["removed"] & names), f"removed and there again: {back}"
        assert not (unknown := names - after["adding"] - {"first"}), f"unknown: {unknown}"
        log.note("read", f"{name}-{count}")


def write_set(target: Path, log: Log, name: str, chance: random.Random) -> None:
    while True:
        card = {**CARD, "extraction": f"{name}-{chance.random()}"}
        cards = {one: {**card, "descriptor": one} for one in ("omega", "phi")}
        with DescriptorWriter(target, cards) as writer:
            stamp = time.monotonic_ns()  # here this process is the only writer: stamps are in the order of the sets
            for part in np.array_split(np.arange(ROWS), 3):
                rows = make_rows([f"{stamp}-{row}" for row in part], None)
                matrix = np.full((len(part), WIDTH), stamp % 65_521, np.float32)
                writer.append({"omega": matrix, "phi": matrix + 1}, rows)
        log.note("wrote", stamp)


def read_set(target: Path, log: Log, name: str, chance: random.Random) -> None:
    for count in range(10**9):
        newest = max(map(int, noted(target.parent)["wrote"]), default=0)
        sets = load_descriptor_sets(target, memory_map=chance.random() < 0.5)
        stamps = {int(row.partition("-")[0]) for one in sets.values() for row in one.names}
        assert len(stamps) == 1 and min(stamps) >= newest, f"{stamps}, after {newest} was written"
        stamp = min(stamps) % 65_521
        assert (sets["omega"].descriptor_ND == stamp).all() and (sets["phi"].descriptor_ND == stamp + 1).all()
        assert {one.count for one in sets.values()} == {ROWS}
        log.note("read", f"{name}-{count}")


KINDS: dict[str, tuple[Callable, Callable]] = {"index": (change_index, read_index), "set": (write_set, read_set)}


def fork(work: Callable, target: Path, name: str, seed: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work(target, Log(target.parent / f"{name}.log"), name, random.Random(f"{name} {seed}"))
    except BaseException as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def main(kind: str, directory: Path, seconds: float, seed: int) -> None:
    target, chance, (write, read) = directory / "target", random.Random(seed), KINDS[kind]
    if kind == "index":
        build_index(str(target), extracted(["first"]), "flat", {})
    writers = [fork(write, target, f"writer{number}", seed) for number in range(WRITERS)]
    while kind == "set" and not target.is_dir():
        time.sleep(0.01)
    readers = [fork(read, target, f"reader{number}", seed) for number in range(READERS)]
    ends, kills, ended = time.monotonic() + seconds, 0, 0
    while time.monotonic() < ends and not ended:
        time.sleep(chance.uniform(0.02, 0.3))
        victim = chance.randrange(WRITERS)
        ended = os.waitpid(-1, os.WNOHANG)[0]  # none ends by itself
        if not ended:
            os.kill(writers[victim], signal.SIGKILL)
            os.waitpid(writers[victim], 0)
            kills += 1
            writers[victim] = fork(write, target, f"writer{victim}_{kills}", seed)
    for process in {*writers, *readers} - {ended}:
        os.kill(process, signal.SIGKILL)
    if ended:
        sys.exit(1)
    if kind == "index":
        logs, names = noted(directory), tiles_in(target, memory_map=False)
        assert logs["added"] - logs["removing"] <= names and not names & logs["removed"], "lost at the end"
    counts = Counter({word: len(values) for word, values in noted(directory).items()})
    print(json.dumps({"kills": kills, **counts}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
