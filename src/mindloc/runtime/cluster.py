"""The ranks of one training run: rank of this process, number of ranks, and what the ranks exchange.

Each rank has a device and a slice of every batch. The launcher sets the environment: MindSpore's dynamic cluster
(``msrun``: MS_ROLE, MS_WORKER_NUM), or a rank table (RANK_TABLE_FILE, RANK_ID, RANK_SIZE). The last functions parse
whole numbers from variables and options.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mindloc.errors import LaunchError, first_line
from mindloc.runtime.device import Device

_DIGEST_BYTES = 8
_MOST_DIGITS = 18  # of the longest numbers in rank tables; int() fails on thousands of digits


@dataclass(frozen=True)
class Cluster:
    """Rank of this process and number of ranks."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that writes files."""
        return self.rank == 0

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """All-gather: (B, ...) of each rank -> (size * B, ...) on every rank, in rank order; B is the same on all.

        The result is float32 with several ranks, and ``rows`` itself with one.
        """
        if self.size == 1:
            return rows
        import mindspore as ms
        from mindspore import ops

        return ops.AllGather()(ms.Tensor(np.ascontiguousarray(rows, np.float32))).asnumpy()

    def require_agreement(self, facts: Mapping[str, bytes | str]) -> None:
        """Check that all ranks have the same content, such as data and settings.

        Args:
            facts: name -> content; the same names in the same order on every rank.

        Raises:
            LaunchError: the ranks differ; the message names the fact, and the first rank that differs from rank 0.
        """
        if self.size == 1:
            return
        digests = np.stack([_digest(content) for content in facts.values()])
        ranks_digests = self.gather(digests[None])
        for fact, of_ranks in zip(facts, ranks_digests.transpose(1, 0, 2), strict=True):
            other = next((rank for rank, digest in enumerate(of_ranks) if (digest != of_ranks[0]).any()), None)
            if other is not None:
                raise LaunchError(
                    f"{fact} of rank {other} differs from that of rank 0; every server needs the same code, command, "
                    "data set and checkpoint: copy them again, or put them on a shared disk"
                )


ALONE = Cluster()


def announced_ranks(environment: Mapping[str, str] = os.environ) -> int:
    """Number of ranks in the launcher's environment; 1 without a launcher."""
    if environment.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED"):
        return number_in(environment, "MS_WORKER_NUM")
    if environment.get("RANK_TABLE_FILE") and "RANK_ID" in environment:
        return number_in(environment, "RANK_SIZE")
    return 1


def announced_device(environment: Mapping[str, str] = os.environ) -> int:
    """Card of this rank in the launcher's environment; 0 for msrun's scheduler, which has none and computes nothing."""
    if environment.get("MS_ROLE") == "MS_SCHED":
        return 0
    return number_in(environment, "DEVICE_ID")


def join_cluster(device: Device) -> Cluster:
    """Join the other ranks; call it before the first tensor is created.

    The dynamic cluster runs the command once more as its scheduler. That process stays in this function until the ranks
    have ended, then exits.

    Raises:
        LaunchError: the environment is incomplete, or the other ranks can't be reached.
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
        reason = first_line(error).partition(". ")[0]  # what follows speaks of MindSpore's variables
        raise LaunchError(
            f"this rank can't join the {size} ranks{_meeting_place()}: {reason}; start every server in time, let each "
            "reach that place, and see the other ranks' logs"
        ) from error
    print(f"rank {cluster.rank} of {cluster.size}, process {os.getpid()}, device {device.target}", flush=True)
    return cluster


def _meeting_place() -> str:
    """Where the ranks of the dynamic cluster meet, as a part of a sentence; or whose they are."""
    host, port = os.environ.get("MS_SCHED_HOST"), os.environ.get("MS_SCHED_PORT")
    return f" that meet at {host}, port {port}" if host and port else " of its environment"


def _digest(content: bytes | str) -> np.ndarray:
    """The first bytes of the content's hash as float32, which represents 0..255 exactly."""
    content = content.encode() if isinstance(content, str) else content
    return np.frombuffer(hashlib.sha256(content).digest()[:_DIGEST_BYTES], np.uint8).astype(np.float32)


def is_number(text: str) -> bool:
    """Whether the text is ASCII digits only, at most 18."""
    return text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS


def number_in(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """The number in an environment variable, or the default if the variable is absent or empty.

    Raises:
        LaunchError: the variable is not a number, or it is absent or empty and there is no default.
    """
    text = environment.get(name) or ("" if default is None else str(default))
    if not is_number(text):
        way_out = "scripts/run_distribute_train.sh sets it" if default is None else "correct it, or unset it"
        raise LaunchError(f"{name} is {text!r} in the environment; expected a number from 0: {way_out}")
    return int(text)


def card_numbers(name: str, text: str) -> tuple[int, ...]:
    """The numbers of the cards in a list such as "0,1,2,3", in its order.

    Args:
        name: of the option or variable, for the error message.

    Raises:
        LaunchError: an item is not a number, or occurs twice.
    """
    words = text.split(",")
    if not all(map(is_number, words)) or len(set(map(int, words))) < len(words):
        raise LaunchError(f"{name} is {text!r}; expected numbers of different cards, separated by commas, such as 0,1")
    return tuple(map(int, words))
