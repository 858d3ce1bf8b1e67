"""mindloc: where was this image taken? Visual geo-localization on MindSpore, on Ascend, GPU and CPU.

The public names are those of ``mindloc.api``, imported on first use: ``import mindloc`` takes milliseconds and does not
import MindSpore.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    raise SystemExit(
        f"mindloc needs Python 3.10 to 3.12, as MindSpore does; this is Python {sys.version.split()[0]}. "
        "Create an environment with: python3.11 -m venv .venv"
    )

if TYPE_CHECKING:
    from mindloc.api import (
        Answer,
        Config,
        Encoder,
        Index,
        MindlocError,
        build_index,
        evaluate,
        extract,
        load,
        load_config,
        open_index,
        score,
        train,
    )

__all__ = [
    "Answer",
    "Config",
    "Encoder",
    "Index",
    "MindlocError",
    "build_index",
    "evaluate",
    "extract",
    "load",
    "load_config",
    "open_index",
    "score",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("mindloc.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
