"""What a search asks with: pictures that are encoded batch by batch, or an extraction that exists already."""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mindloc.cli.arguments import SIDE_OF, engine_wish, say_agreement
from mindloc.config import config_from_dict, override_config
from mindloc.config.schema import Config
from mindloc.data.images import picture_names
from mindloc.inference.build import Source, read_source, start_engine
from mindloc.inference.exported import ExportedFile
from mindloc.search.two_stage import Batch, load_extracted

AddSeconds = Callable[..., None]  # called with stage=seconds


@dataclass(frozen=True)
class Asked:
    """Queries and where they come from."""

    config: Config
    count: int
    checkpoint_sha256: str | None
    reduction_sha256: str | None
    dimension: int | None  # of their recall descriptors; None: known once the first is encoded
    has_rerank: bool  # there are re-rank descriptors as well
    batches: Callable[[AddSeconds], Iterator[Batch]]


def ask_extraction(args: argparse.Namespace) -> Asked:
    """The queries of ``args.queries``; no device, no MindSpore.

    Raises:
        DataError, TileIndexError: as ``load_extracted``.
        ConfigError: an override that does not fit.
    """
    extracted = load_extracted(args.queries, args.pca)
    config = override_config(config_from_dict(extracted.recall.card.get("config", {})), args.overrides)

    def batches(_: AddSeconds) -> Iterator[Batch]:
        return extracted.batches()

    return Asked(
        config=config,
        count=extracted.count,
        checkpoint_sha256=extracted.checkpoint_sha256,
        reduction_sha256=extracted.reduction_sha256,
        dimension=extracted.dimension,
        has_rerank=extracted.rerank is not None,
        batches=batches,
    )


def ask_pictures(args: argparse.Namespace) -> Asked:
    """The pictures of ``args.folder``; the device is started with the first batch.

    Raises:
        DataError, ConfigError, CheckpointError, ExportError, TileIndexError: no pictures, nothing to encode them with.
    """
    names = picture_names(args.folder)
    paths = [args.folder / name for name in names]
    wish = engine_wish(args)
    source = read_source(wish, (SIDE_OF[args.view],))
    config = override_config(source.config, args.overrides)

    def batches(add_seconds: AddSeconds) -> Iterator[Batch]:
        engine = start_engine(wish, source, config)
        from mindloc.data.readers import build_images  # after the device is chosen: it imports MindSpore

        say_agreement(wish, engine, config, {SIDE_OF[args.view]: paths})
        done, started = 0, time.perf_counter()
        for image_B3HW, count in build_images(config, SIDE_OF[args.view], paths, engine.batch_size):
            encoded = {
                key.partition(".")[2]: rows
                for key, rows in engine.encode({SIDE_OF[args.view]: image_B3HW[:count]}).items()
            }
            recall_BD = encoded[engine.descriptors[0]]
            add_seconds(encode=time.perf_counter() - started)
            yield Batch(names[done : done + count], recall_BD, encoded.get("phi"))
            done, started = done + count, time.perf_counter()

    file = source.files.get(SIDE_OF[args.view])
    return Asked(
        config=config,
        count=len(names),
        checkpoint_sha256=source.checkpoint_sha256,
        reduction_sha256=source.reduction and source.reduction.sha256,
        dimension=_dimension(source, file),
        has_rerank="phi" in file.descriptors if file else config.head.name == "two_stage",
        batches=batches,
    )


def _dimension(source: Source, file: ExportedFile | None) -> int | None:
    """Of the recall descriptors, where it is known before one is encoded."""
    if source.reduction:
        return source.reduction.dimension
    return next(iter(file.dimensions.values())) if file else None
