"""Fit the reduction of recall descriptors: the directions in which those of many tiles vary most.

Take tiles of training: a Recall measured with a reduction that was fitted to the very tiles searched in flatters. The
file goes with --pca to extract, index, search and eval.py.
"""

import argparse
import time
from pathlib import Path

from mindloc.cli.command import command
from mindloc.descriptors.reduction import fit_reduction, save_reduction
from mindloc.errors import ConfigError, TileIndexError
from mindloc.search.extraction import load_extracted

FLOAT_BYTES = 4


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc pca",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="what extract wrote of the tiles")
    parser.add_argument("--dimension", type=int, default=512, help="numbers that are left; default: 512")
    parser.add_argument("--seed", type=int, default=0, help="of the random directions to begin from; default: 0")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="new .safetensors file")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    _check(args)
    tiles = load_extracted(args.directory)
    if tiles.reduction_sha256:
        raise TileIndexError(f"{args.directory} was reduced when it was extracted; extract it once more without --pca")
    started = time.perf_counter()
    fitted = fit_reduction(tiles.recall.descriptor_ND, args.dimension, args.seed, tiles.checkpoint_sha256)
    save_reduction(args.out, fitted)
    print(
        f"{tiles.recall.descriptor} of {tiles.count} tiles: {tiles.dimension} numbers to {fitted.dimension}, "
        f"which explain {fitted.explained_share:.1%} of the variance"
    )
    print(f"bytes per tile: {FLOAT_BYTES * tiles.dimension} before, {FLOAT_BYTES * fitted.dimension} after")
    print(f"{args.out}: fitted in {time.perf_counter() - started:.1f} s")


def _check(args: argparse.Namespace) -> None:
    if args.out.suffix != ".safetensors":
        raise ConfigError(f"--out is {args.out}; name a file that ends in .safetensors")
    if args.seed < 0:
        raise ConfigError(f"--seed is {args.seed}; give a whole number, 0 or more")
