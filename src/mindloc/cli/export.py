"""Command that writes a trained encoder as files for devices."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mindloc.cli.command import PATH, command
from mindloc.cli.options import CHECKPOINT
from mindloc.errors import ConfigError
from mindloc.export.state_dict import export_state_dict
from mindloc.inference.exported import FORMATS
from mindloc.inference.mindir import read_key
from mindloc.runtime.checkpoint import resolve_checkpoint
from mindloc.runtime.cluster import is_number
from mindloc.runtime.device import use_device
from mindloc.runtime.run_directory import export_directory

STATE_DICT = "PTH"  # contains weights alone; the other formats contain the graph


def number_or_any(text: str) -> int | str:
    """The value of --batch_size: a number of images per call, or "any"."""
    if text != "any" and not is_number(text):
        raise click.BadParameter(f"{text!r} is neither a number of images, such as 64, nor any")
    return text if text == "any" else int(text)


@command("export", example="--checkpoint work_dir/latest --file_format ONNX")
@click.option(
    "--checkpoint",
    "--checkpoint_file",
    type=PATH,
    required=True,
    metavar="RUN",
    help=CHECKPOINT,
)
@click.option("--out", type=PATH, metavar="DIRECTORY", help="default: export/ of the checkpoint's run")
@click.option("--file_name", metavar="NAME", help="without suffix; default: encoder, or the view's name")
@click.option(
    "--file_format",
    type=click.Choice([*FORMATS, STATE_DICT]),
    default="MINDIR",
    help="PTH: a PyTorch state dict for Game4Loc's model class; default: MINDIR",
)
@click.option(
    "--view",
    default="both",
    help="both; query: the side of the queries, by the checkpoint's eval.swap_sides; or what the images show, such as "
    "drone or satellite; default: both",
)
@click.option(
    "--batch_size",
    type=number_or_any,
    metavar="N",
    help="images per call, or any; default: any for MINDIR, else 1",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="default: that of the training run; fp32 for ONNX",
)
@click.option(
    "--with_normalization", is_flag=True, help="input: uint8 (batch, height, width, RGB), normalized in the file"
)
@click.option(
    "--unit_length",
    is_flag=True,
    help="output: a global descriptor of length 1; Omega and Phi always have it, centroids are positions",
)
@click.option(
    "--enc_key_file", type=PATH, metavar="FILE", help="encrypt MINDIR (AES-GCM) with this key of 16, 24 or 32 bytes"
)
@click.option(
    "--device_target",
    type=click.Choice(["auto", "CPU", "GPU", "Ascend"]),
    default="auto",
    help="where the live encoder runs; AIR needs Ascend; default: the best that works here, the CPU for ONNX",
)
@click.option("--device_id", type=int, default=0, metavar="N", help="card of this server; default: 0")
def export(
    checkpoint: Path,
    out: Path | None,
    enc_key_file: Path | None,
    device_target: str,
    device_id: int,
    **request,
) -> None:
    """Write a trained encoder as a file for a device; each file is reloaded and compared with the live encoder.

    If both sides share weights and image size, one file serves both. A JSON card beside each file states its input, its
    outputs, and the checkpoint that it was exported from.
    """
    checkpoint = resolve_checkpoint(checkpoint, print)
    if request["file_format"] == STATE_DICT:
        _refuse_options_of_graphs(request, enc_key_file)
        print(export_state_dict(checkpoint, out or export_directory(checkpoint), request["file_name"]))
        return
    anywhere = request["file_format"] == "ONNX" and device_target == "auto"  # ONNX has none of Ascend's own operators
    device = use_device("CPU" if anywhere else device_target, device_id)
    print(f"device: {device.summary}")

    from mindloc.export.build import (  # after the device is chosen: it imports MindSpore
        ExportRequest,
        export_checkpoint,
    )

    key = None if enc_key_file is None else read_key(enc_key_file)
    directory = out or export_directory(checkpoint)
    for exported in export_checkpoint(checkpoint, directory, ExportRequest(**request, key=key), device.target):
        print(exported)


def _refuse_options_of_graphs(request: Mapping[str, Any], enc_key_file: Path | None) -> None:
    """Check that no option on the graph is given, since a state dict contains no graph."""
    given = [name for name in ("batch_size", "precision", "with_normalization", "unit_length") if request[name]]
    given += ["view"] * (request["view"] != "both") + ["enc_key_file"] * (enc_key_file is not None)
    if given:
        raise ConfigError(f"a PTH file contains weights, not a graph; leave out --{', --'.join(given)}")
