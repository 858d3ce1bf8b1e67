"""One view's encoder as MINDIR, MindSpore's own portable graph, reloaded and compared before it is called done."""

import shutil
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindloc.errors import ExportError
from mindloc.export.artifact import ExportSpec, largest_difference, publish
from mindloc.inference.plain_outputs import PlainOutputs

TOLERANCE = 1e-5  # of the largest entry; a reload on the same device was seen to differ by 0.0
FORMAT = "MINDIR"


def export_mindir(view_encoder: nn.Cell, spec: ExportSpec, path: str | Path, facts: dict[str, Any]) -> float:
    """Write ``path`` (ends in .mindir) and its card.

    Args:
        view_encoder: (B, 3, H, W) -> {"{view}.global": (B, D)}.
        facts: for the card: checkpoint_sha256, config, ...

    Returns:
        The largest difference between the reloaded and the live encoder, as a share of the largest entry.

    Raises:
        ExportError: the graph can't be saved or reloaded, or answers otherwise than the live one. Nothing is written.
    """
    path = Path(path)
    if path.suffix != ".mindir":
        raise ExportError(f"export path {path} ends in {path.suffix!r}; MindSpore reads graphs only from *.mindir")
    partial = path.with_name(f".{path.stem}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an export that was killed
    try:
        partial.mkdir(parents=True)
        difference, dimension = _save_and_compare(view_encoder, spec, partial / path.name)
        made = {"format": FORMAT, "mindspore": ms.__version__, "dimension": dimension}
        check = {"largest_difference": difference, "tolerance": TOLERANCE, "relative_to": "largest entry"}
        publish(partial / path.name, path, spec, {**made, "check": check, **facts})
    except OSError as error:
        raise ExportError(f"can't write {path}: {error.strerror or error}; take another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return difference


def _save_and_compare(view_encoder: nn.Cell, spec: ExportSpec, file: Path) -> tuple[float, int]:
    cell = PlainOutputs(view_encoder, spec.output)
    cell.set_train(False)
    shape = spec.input_shape
    if spec.batch_size is None:
        example = ms.Tensor(shape=shape, dtype=ms.float32)
        cell.set_inputs(example)
    else:
        example = ms.Tensor(np.zeros(shape, np.float32))
    try:
        ms.export(cell, example, file_name=str(file), file_format=FORMAT)
        reloaded = nn.GraphCell(ms.load(str(file)))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"MindSpore can't export the {spec.view} encoder: {str(error).splitlines()[0]}") from error
    return largest_difference(_runs(cell), _runs(reloaded), spec, TOLERANCE)


def _runs(cell: nn.Cell):
    return lambda image_B3HW: cell(ms.Tensor(image_B3HW)).asnumpy()
