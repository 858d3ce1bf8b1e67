"""AIR, the graph of Ascend's own compiler: made on an Ascend, and run by Ascend's tools only."""

from pathlib import Path

import mindspore as ms
from mindspore import nn

from mindloc.errors import ExportError

UNCOMPARED = "no program but Ascend's converter (atc) reads an AIR file; compare a descriptor of the converted one"


def require_ascend(target: str) -> None:
    """Raises: ExportError: this process computes elsewhere."""
    if target != "Ascend":
        raise ExportError(
            f"AIR is written on an Ascend only, and this is {target}: run this command with --device_target Ascend "
            "on a machine with its driver, CANN and MindSpore; MINDIR and ONNX are written here, and atc reads ONNX too"
        )


def save(cell: nn.Cell, example: ms.Tensor, file: Path, key: bytes | None, names: list[str]) -> None:
    ms.export(cell, example, file_name=str(file), file_format="AIR")
