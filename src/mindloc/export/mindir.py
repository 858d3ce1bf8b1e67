"""MINDIR, MindSpore's own portable graph; it takes any number of pictures and can be encrypted."""

from pathlib import Path
from typing import Any

import mindspore as ms
from mindspore import nn

from mindloc.inference.mindir_file import MODE, open_mindir

reload = open_mindir
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2}  # of the largest entry; a reload was seen to differ by 0.0


def save(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None, names: list[str]) -> None:
    secret: dict[str, Any] = {} if key is None else {"enc_key": key, "enc_mode": MODE}
    ms.export(cell, example, file_name=str(file), file_format="MINDIR", **secret)
