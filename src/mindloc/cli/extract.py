"""The descriptors of a directory of images, on disk."""

from pathlib import Path

import click

from mindloc.cli.command import PATH, command
from mindloc.cli.options import (
    EngineArguments,
    config_options,
    engine_options,
    refuse_overrides_outside,
    view_option,
)
from mindloc.config import override_config
from mindloc.data.images import image_names
from mindloc.data.loader import ImageBatches
from mindloc.data.readers import read_ground
from mindloc.errors import ConfigError
from mindloc.inference.build import card_facts, compare_with_exact, read_source, start_engine
from mindloc.inference.extract import extract


@command("extract", example="data/world/satellite --checkpoint RUN/checkpoints/weights_best.safetensors --out tiles")
@click.argument("directory", type=PATH)
@engine_options
@view_option("reference")
@click.option(
    "--places",
    is_flag=True,
    help="of tiles: read place and bounds from their names, by data.reader, data.map_px and data.m_per_px",
)
@click.option("--out", type=PATH, required=True, metavar="DIRECTORY", help="new directory for the descriptor set")
@config_options(("--device_target", "--device_id"), with_file=False)
def extract_directory(
    directory: Path, engine: EngineArguments, view: str | None, places: bool, out: Path, overrides: tuple[str, ...]
) -> None:
    """Write the descriptors of every image in DIRECTORY (.png, .jpg, .jpeg, subdirectories included) as descriptor
    sets: descriptors.npy, rows.jsonl, card.json.

    An encoder with two descriptors writes a set for each, omega/ and phi/.
    """
    refuse_overrides_outside(overrides, ("data", "eval", "run"), "the rest is fixed by the checkpoint")
    names = image_names(directory)
    request = engine.request()
    source = read_source(request, ("reference",), view)
    config, side = override_config(source.config, overrides), source.side
    if places and side != "reference":
        shown = config.view(side).name
        raise ConfigError(f"--places reads places from names of tiles, which {shown} images don't have; leave it out")
    ground = read_ground(config.data, directory, names) if places else None
    if ground:
        print(f"places: {ground}")
    started = start_engine(request, source, config)

    paths = [directory / name for name in names]
    compare_with_exact(started, config, {side: paths})
    batches = ImageBatches(config.view(side), paths, started.batch_size, config.data.workers)
    facts = card_facts(config, side, ground and ground.unit)
    place_N2, bounds_N4 = (ground.place_N2, ground.bounds_N4) if ground else (None, None)
    done = extract(started, side, batches, names, place_N2, out, facts, bounds_N4=bounds_N4)
    print(f"{out}: {done}")
