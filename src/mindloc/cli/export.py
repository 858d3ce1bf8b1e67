"""Write a trained encoder as a file for a device; each file is reloaded and compared with the live encoder."""

import argparse
from pathlib import Path

from mindloc.cli.boundary import command
from mindloc.runtime.device import use_device


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="export.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--checkpoint", "--checkpoint_file", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, help="folder of the files; default: export/ beside the checkpoint's folder")
    parser.add_argument("--file_format", choices=("MINDIR",), default="MINDIR")
    parser.add_argument(
        "--view", choices=("drone", "satellite"), help="encode this view only; default: a file for each"
    )
    parser.add_argument("--batch_size", type=int, help="pictures per call, fixed; default: any number")
    parser.add_argument("--device_target", choices=("auto", "CPU", "GPU", "Ascend"), default="auto")
    parser.add_argument("--device_id", type=int, default=0)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    use_device(args.device_target, args.device_id)

    from mindloc.export.build import export_checkpoint  # after the device is chosen: it imports MindSpore

    folder = args.out or args.checkpoint.parent.parent / "export"
    views = (args.view,) if args.view else ("drone", "satellite")
    files = export_checkpoint(args.checkpoint, folder, views, args.file_format.lower(), args.batch_size)
    for path, difference in files.items():
        print(f"{path}: reloaded, differs from the live encoder by {difference:.1e} of the largest entry")
