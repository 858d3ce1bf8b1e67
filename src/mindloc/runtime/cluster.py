"""The processes that share one training: which of them this one is, and what they tell each other.

Each rank has a device and a slice of every batch. It learns its place from the environment that the launcher made:
MindSpore's dynamic cluster (``msrun``: MS_ROLE, MS_WORKER_NUM), or a rank table (RANK_TABLE_FILE, RANK_ID, RANK_SIZE).
At the end: whole numbers, as launchers and their users write them.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mindloc.errors import LaunchError
from mindloc.runtime.device import Device

_DIGEST_BYTES = 8
_MOST_DIGITS = 18  # of the longest numbers in tables; Python itself refuses to read thousands of digits


@dataclass(frozen=True)
class Cluster:
    """This process's place among the ranks."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one rank that writes."""
        return self.rank == 0

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """(B, ...) of each rank -> (size * B, ...) on every rank, rank 0's first; B is the same on all.

        Float32 between ranks; what one rank alone gathers is what it gave.
        """
        if self.size == 1:
            return rows
        import mindspore as ms
        from mindspore import ops

        return ops.AllGather()(ms.Tensor(np.ascontiguousarray(rows, np.float32))).asnumpy()

    def require_agreement(self, facts: Mapping[str, bytes | str]) -> None:
        """Refuse to continue with a rank that has something else, e.g. other data.

        Args:
            facts: what it is -> its content; the same names in the same order on every rank.

        Raises:
            LaunchError: naming the fact, and the first rank that differs from rank 0.
        """
        if self.size == 1:
            return
        digests = np.stack([_digest(content) for content in facts.values()])
        ranks_digests = self.gather(digests[None])
        for fact, of_ranks in zip(facts, ranks_digests.transpose(1, 0, 2), strict=True):
            other = next((rank for rank, digest in enumerate(of_ranks) if (digest != of_ranks[0]).any()), None)
            if other is not None:
                raise LaunchError(
                    f"rank {other} does not have the {fact} that rank 0 has; every server needs the same code, "
                    "command, data set and checkpoint: copy them again, or put them on a disk that the servers share"
                )


ALONE = Cluster()


def announced_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """How many ranks the launcher announced to this process; 1 when nobody launched it."""
    if environment.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED"):
        return number_in(environment, "MS_WORKER_NUM")
    if environment.get("RANK_TABLE_FILE") and "RANK_ID" in environment:
        return number_in(environment, "RANK_SIZE")
    return 1


def announced_device(environment: Mapping[str, str] = os.environ) -> int:
    """The card that the launcher gave to this rank; msrun's scheduler has none and computes nothing."""
    if environment.get("MS_ROLE") == "MS_SCHED":
        return 0
    return number_in(environment, "DEVICE_ID")


def join_cluster(device: Device) -> Cluster:
    """Meet the other ranks; before the first tensor is made.

    The dynamic cluster runs the command once more, as the scheduler that introduces the ranks to each other: that
    process stays in here until they are done, and exits.

    Raises:
        LaunchError: the environment is incomplete, or the others can't be reached.
    """
    size = announced_ranks()
    if size == 1:
        return ALONE
    from mindspore.communication import get_group_size, get_rank, init

    try:
        init()
        if os.environ.get("MS_ROLE") == "MS_SCHED":
            raise SystemExit(0)
        cluster = Cluster(get_rank(), get_group_size())
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise LaunchError(f"this rank can't join the {size} ranks that were announced to it: {reason}") from error
    print(f"rank {cluster.rank} of {cluster.size}, process {os.getpid()}, device {device.target}", flush=True)
    return cluster


def _digest(content: bytes | str) -> np.ndarray:
    """Bytes as float32, which carries each of their 256 values exactly."""
    content = content.encode() if isinstance(content, str) else content
    return np.frombuffer(hashlib.sha256(content).digest()[:_DIGEST_BYTES], np.uint8).astype(np.float32)


def is_number(text: str) -> bool:
    """Whether these are digits, 0 to 9, and nothing else, and not endlessly many."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def number_in(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable's number; where it is absent or empty the default, unless that is None.

    Raises:
        LaunchError: it is something else.
    """
    text = environment.get(name) or ("" if default is None else str(default))
    if not is_number(text):
        way_out = "scripts/run_distribute_train.sh sets it" if default is None else "set it so, or unset it"
        raise LaunchError(f"{name} is {text!r} in the environment, expected a number from 0; {way_out}")
    return int(text)


def card_numbers(name: str, text: str) -> tuple[int, ...]:
    """Cards of a list such as "0,1,2,3", in its order.

    Args:
        name: what the user knows the list by.

    Raises:
        LaunchError: one is not a number, or is named twice.
    """
    words = text.split(",")
    if not all(map(is_number, words)) or len(set(map(int, words))) < len(words):
        raise LaunchError(f"{name} is {text!r}, expected different cards' numbers; write them with commas, like 0,1")
    return tuple(map(int, words))
