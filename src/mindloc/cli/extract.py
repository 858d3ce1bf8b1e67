"""Command that writes the descriptors of a directory of images."""

from pathlib import Path

import click

from mindloc.api import Encoder, extract
from mindloc.cli.command import PATH, command
from mindloc.cli.options import EngineArguments, config_options, engine_options, view_option
from mindloc.config import AFTER_TRAINING, override_after_training
from mindloc.errors import ConfigError, ImageError
from mindloc.inference.build import read_source


@command("extract", example="data/world/satellite --checkpoint work_dir/latest --out tiles")
@click.argument("directory", type=PATH)
@engine_options
@view_option("reference")
@click.option(
    "--places",
    is_flag=True,
    help="for tiles: read place and bounds from their names, by data.reader, data.map_px and data.m_per_px",
)
@click.option("--out", type=PATH, required=True, metavar="DIRECTORY", help="new directory for the descriptor set")
@config_options(("--device_target", "--device_id"), of_checkpoint=True)
def extract_directory(
    directory: Path, engine: EngineArguments, view: str | None, places: bool, out: Path, overrides: tuple[str, ...]
) -> None:
    """Write the descriptors of every image in DIRECTORY (JPEG, PNG, WebP, TIFF, BMP; subdirectories included) as
    descriptor sets: descriptors.npy, rows.jsonl, card.json.

    An image that can't be read is an error; with --set data.on_bad_image=skip it is left out and named.

    An encoder with two descriptors writes a set for each, omega/ and phi/.
    """
    request = engine.request()
    source = read_source(request, ("reference",), view)
    sections = [section for section in AFTER_TRAINING if section != "search"]
    config = override_after_training(source.config, overrides, sections)
    shown = config.view(source.side).name
    if places and source.side != "reference":
        raise ConfigError(f"--places reads places from names of tiles, and {shown} images are not tiles; leave it out")
    try:
        done = extract(Encoder(request, source, config, print), directory, out, view=shown, places=places)
    except ImageError as error:
        if config.data.on_bad_image == "skip":  # none can be read
            raise
        raise ImageError(f"{error}, or leave it out: --set data.on_bad_image=skip") from None
    print(f"{out}: {done}")
