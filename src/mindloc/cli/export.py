"""Write a trained encoder as a file for a device; each file is reloaded and compared with the live encoder.

Where both sides share weights and image size, one file serves both. A JSON card beside each file says what goes in,
what comes out, and which checkpoint it was made from.
"""

import argparse
from pathlib import Path

from mindloc.cli.command import command
from mindloc.inference.exported import FORMATS
from mindloc.runtime.cluster import is_number
from mindloc.runtime.device import use_device
from mindloc.runtime.run_directory import export_directory


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--checkpoint", "--checkpoint_file", type=Path, required=True, metavar="FILE", help="weights of a training run"
    )
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="default: export/ of the checkpoint's run")
    parser.add_argument("--file_name", metavar="NAME", help="without suffix; default: encoder, or the view's name")
    parser.add_argument("--file_format", choices=FORMATS, default="MINDIR")
    parser.add_argument(
        "--view",
        default="both",
        help="both; query: the side that asks by eval.swap_sides of the checkpoint; or what the images show, such as "
        "drone or satellite; default: both",
    )
    parser.add_argument(
        "--batch_size",
        type=number_or_any,
        metavar="N",
        help="images per call, or any; default: any for MINDIR, else 1",
    )
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), help="default: the training's; fp32 for ONNX")
    parser.add_argument(
        "--with_normalization", action="store_true", help="uint8 (batch, height, width, RGB) in, normalized in the file"
    )
    parser.add_argument(
        "--unit_length",
        action="store_true",
        help="a global descriptor of length 1 out; Omega and Phi have it always, centroids are positions and stay",
    )
    parser.add_argument(
        "--enc_key_file", type=Path, metavar="FILE", help="encrypt MINDIR (AES-GCM) with its 16, 24 or 32 bytes"
    )
    parser.add_argument(
        "--device_target",
        choices=("auto", "CPU", "GPU", "Ascend"),
        default="auto",
        help="where the live encoder runs; AIR needs Ascend; default: the best that works here, the CPU for ONNX",
    )
    parser.add_argument("--device_id", type=int, default=0)
    return parser


def number_or_any(text: str) -> int | str:
    """Images per call as the command line says it."""
    if text != "any" and not is_number(text):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of images, such as 64, nor any")
    return text if text == "any" else int(text)


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    anywhere = args.file_format == "ONNX" and args.device_target == "auto"  # an Ascend's own operators are no ONNX
    device = use_device("CPU" if anywhere else args.device_target, args.device_id)
    print(f"device: {device.description}")

    from mindloc.export.build import (  # after the device is chosen: it imports MindSpore
        ExportRequest,
        export_checkpoint,
    )
    from mindloc.inference.mindir import read_key

    request = ExportRequest(
        file_format=args.file_format,
        view=args.view,
        batch_size=args.batch_size,
        precision=args.precision,
        with_normalization=args.with_normalization,
        unit_length=args.unit_length,
        file_name=args.file_name,
        key=None if args.enc_key_file is None else read_key(args.enc_key_file),
    )
    directory = args.out or export_directory(args.checkpoint)
    for exported in export_checkpoint(args.checkpoint, directory, request, device.target):
        print(exported)
