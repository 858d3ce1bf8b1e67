"""mindloc as a library: load an encoder, encode images, extract, build and search an index, evaluate, train.

The public names are ``mindloc.NAME``; everything else is private by convention. MindSpore is imported when an encoder
is loaded or a training run starts. Lines that the command line prints go to the logger ``mindloc`` here.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mindloc.config import Config, load_config, override_config, override_for_evaluation
from mindloc.data.image_directory import list_images
from mindloc.data.images import ImageLike
from mindloc.data.loader import ImageBatches
from mindloc.data.readers import SplitName, find_split, read_ground, read_split
from mindloc.descriptors.ranking import float64_rows
from mindloc.descriptors.sets import require_place
from mindloc.errors import ConfigError, DataError, MindlocError
from mindloc.evaluation import evaluate as evaluation
from mindloc.evaluation.rescore import rescore as score
from mindloc.inference.build import EngineRequest, Source, compare_with_exact, read_source, start_engine
from mindloc.inference.build import card_facts as facts_of
from mindloc.inference.engine import Engine
from mindloc.inference.exported import FORMATS
from mindloc.inference.extract import Extraction
from mindloc.inference.extract import extract as write_descriptors
from mindloc.registry import ENGINES
from mindloc.runtime.checkpoint import resolve_checkpoint
from mindloc.runtime.device import use_device
from mindloc.runtime.run_directory import RunDirectory
from mindloc.search.answers import Summary, plan_search, require_fit, search_all
from mindloc.search.build import build_index as make_index
from mindloc.search.build import open_index as open_tile_index
from mindloc.search.extraction import Batch, Queries, load_extracted
from mindloc.search.index import Circle, TileIndex
from mindloc.vocabulary import CENTROIDS, PHI, SIDES, SideName

__all__ = [
    "Answer",
    "Config",
    "Encoder",
    "Index",
    "MindlocError",
    "build_index",
    "evaluate",
    "extract",
    "load",
    "load_config",
    "open_index",
    "score",
    "train",
]

PathLike = str | Path

log = logging.getLogger("mindloc")


class Encoder:
    """A trained encoder on a device, created by ``load``.

    Attributes:
        config: settings of its training run, changed by the arguments of ``load``.
        views: names of the views of the query side and the reference side, such as ("drone", "satellite").
    """

    def __init__(self, request: EngineRequest, source: Source, config: Config, say: Callable[[str], None] = log.info):
        self.config, self.views = config, tuple(config.view(side).name for side in SIDES)
        self._request, self._source, self._say = request, source, say

    @cached_property
    def engine(self) -> Engine:
        """The inference engine, started at first use."""
        return start_engine(self._request, self._source, self.config, self._say)

    @property
    def descriptors(self) -> tuple[str, ...]:
        """Names of the encoder's outputs: ("global",), or ("omega", "phi") with a two-stage head."""
        return self.engine.descriptors

    def encode(self, images: ImageLike | Sequence[ImageLike], view: str) -> dict[str, np.ndarray]:
        """Descriptors of any number of images.

        Args:
            images: paths of files, uint8 arrays (height, width, 3) in RGB, PIL images, or a single one of
                these; an array (N, height, width, 3) is N images. They are resized and normalized as in training.
            view: what all images show, one of ``views``.

        Returns:
            Descriptor name -> (N, D) float32, rows in the order of the images, L2-normalized (an inner product is a
            cosine), except "centroids", which are positions in the image.

        Raises:
            ConfigError: the view is unknown, or the loaded files do not encode it.
            ImageError: an image is unreadable, or an array has the wrong shape or type.
            DataError: there are no images.
        """
        side = self._side(view)
        listed = _listed(images)
        if not listed:
            raise DataError("no image to encode; give one or more")
        size = min(self.engine.batch_size, len(listed))
        batches = ImageBatches(self.config.view(side), listed, size, self.config.data.workers)
        encoded = [self.engine.encode({side: image_B3HW[:count]}) for image_B3HW, count in batches]
        outputs = {name: np.concatenate([batch[f"{side}.{name}"] for batch in encoded]) for name in self.descriptors}
        unit = {name: float64_rows(rows, True).astype(np.float32) for name, rows in outputs.items()}
        return {name: outputs[name] if name == CENTROIDS else unit[name] for name in outputs}

    def _side(self, view: str) -> SideName:
        side = self.config.side_of(view)
        if side not in self._source.sides:
            loaded = " and ".join(self.config.view(each).name for each in self._source.sides)
            raise ConfigError(f"this encoder was loaded for {loaded} images only; load it with view={view!r}")
        return side


def _listed(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    """The images as a list: a single image becomes a list of one, an array of four dimensions a list of its images."""
    if isinstance(images, np.ndarray) and images.ndim != 3:
        return list(images)
    return [images] if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) else list(images)


def load(
    path: PathLike,
    *,
    engine: str | None = None,
    view: str | None = None,
    precision: str | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    device_id: int | None = None,
    pca: PathLike | None = None,
) -> Encoder:
    """A trained encoder from a checkpoint, a run directory, or exported MINDIR or ONNX files.

    Args:
        path: a ``.safetensors`` checkpoint; a run directory (its best weights, else its last, else its newest); a
            ``.mindir`` or ``.onnx`` file with its card beside it; with ``engine``, a directory of such files.
        engine: "mindspore", "mindir" or "onnx"; None: inferred from the path.
        view: the view to encode, for files exported for one view only; None: both.
        precision: "fp32", "fp16", "bf16" or "int8", if the engine supports it; None: that of training, fp32 for files.
        batch_size: maximum images per forward pass; None: eval.batch_size of the config.
        device: "CPU", "GPU" or "Ascend"; None: run.device_target of the config, by default the best that works here.
        device_id: card number; None: run.device_ids of the config.
        pca: file written by ``mindloc pca``, to reduce the recall descriptor; None: no reduction.

    Raises:
        CheckpointError, ExportError: a file is missing, damaged, or does not belong to the others.
        ConfigError: the engine or view is unknown, or the engine does not support the precision.
        DeviceError: the device can't be used here; no other device is tried.
    """
    request = _request(Path(path), engine, precision, None if pca is None else Path(pca))
    source = read_source(request, view=view)
    card = None if device_id is None else [device_id]
    values = {"eval.batch_size": batch_size, "run.device_target": device, "run.device_ids": card}
    config = source.config.with_values({key: value for key, value in values.items() if value is not None})
    encoder = Encoder(request, source, config)
    _ = encoder.engine  # starts the engine, so that a device that can't be used is an error of this function
    return encoder


def _request(path: Path, engine: str | None, precision: str | None, pca: Path | None) -> EngineRequest:
    """The arguments of ``load`` as a request, with the engine inferred from the path if it is None."""
    if engine is None:
        suffixes = {FORMATS[entry.file_format].suffix: name for name, entry in ENGINES.items() if entry.file_format}
        engine = suffixes.get(path.suffix, "mindspore")
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} does not exist; choose from {', '.join(ENGINES)}")
    entry = ENGINES[engine]
    if precision is not None and precision not in entry.precisions:
        raise ConfigError(
            f"engine {engine} does not support precision {precision!r}; choose from {', '.join(entry.precisions)}"
        )
    if entry.file_format is None:
        return EngineRequest(engine, checkpoint=resolve_checkpoint(path, log.info), precision=precision, pca=pca)
    if (path / "config.yaml").is_file():  # a run
        path = path / "export"
    return EngineRequest(engine, exported=path, precision=precision, pca=pca)


def extract(encoder: Encoder, images: PathLike, out: PathLike, *, view: str, places: bool = False) -> Extraction:
    """Encode all images in a directory and write a descriptor set; with a two-stage head, one set per descriptor.

    Args:
        images: directory, subdirectories included; with ``data.on_bad_image: skip`` unreadable files are left out.
        out: new directory for the set: descriptors.npy, rows.jsonl, card.json.
        view: what the images show, one of ``encoder.views``.
        places: read each tile's position from its file name, with the reader of the encoder's config.

    Raises:
        DataError: there are no images, an image is unreadable, or ``out`` contains something else.
        ConfigError: the view is unknown, or ``places`` is set for images whose names do not state places.
    """
    side, config, say = encoder._side(view), encoder.config, encoder._say
    if places and side != "reference":
        raise ConfigError(f"only names of tiles state places, and {view} images are not tiles; leave places out")
    require_place(out)
    found = list_images(images).checked(config.data.on_bad_image == "skip", say)
    ground = read_ground(config.data, found.directory, found.names) if places else None
    if ground:
        say(f"places: {ground}")
    compare_with_exact(encoder.engine, config, {side: found.paths}, say)
    batches = found.batches(config.view(side), encoder.engine.batch_size, config.data.workers)
    place_N2, bounds_N4, unit = (ground.place_N2, ground.bounds_N4, ground.unit) if ground else (None, None, None)
    made = (encoder.engine, side, batches, found.names, place_N2, out, facts_of(config, side, unit))
    done = write_descriptors(*made, bounds_N4=bounds_N4, left_out=found.findings.left_out)
    found.say_after(say)
    return replace(done, left_out=found.left_out)


class Answer(NamedTuple):
    """One tile that answers a query."""

    tile: str
    place: tuple[float, float] | None  # its center, in the index's ``place_unit``; None: unknown
    bounds: tuple[float, float, float, float] | None  # minimum of both coordinates, then maximum of both
    score: float
    score_of: str  # "cosine", or "consistency" of the nodes
    recall_rank: int  # rank in stage one, starting at 1


class Index:
    """A searchable index of tiles, created by ``open_index`` or ``build_index``; usable as a context manager.

    Attributes:
        count: number of tiles.
        place_unit: unit of the tiles' places: "plane_m" (x, y), "lat_lon_deg" (latitude, longitude), None (unknown).
    """

    def __init__(self, tiles: TileIndex):
        self._tiles = tiles
        self.count, self.place_unit = tiles.count, tiles.card.place_unit

    def search(
        self,
        encoder: Encoder,
        images: ImageLike | Sequence[ImageLike],
        *,
        view: str,
        top: int = 5,
        near: tuple[float, float] | None = None,
        within_m: float | None = None,
    ) -> list[list[Answer]]:
        """The best answers of each image, in the order of the images.

        Args:
            encoder: the encoder that the tiles were encoded with.
            images, view: see ``Encoder.encode``.
            top: answers per image; there are fewer only if fewer tiles are within the search radius.
            near, within_m: last known position in ``place_unit``, and the search radius around it in meters.

        Raises:
            TileIndexError: the index was built with a different encoder or reduction, has too few tiles or no places.
            ConfigError: only one of ``near`` and ``within_m`` is given, or the view is unknown.
            ImageError: for the reasons given in ``Encoder.encode``.
        """
        if (near is None) != (within_m is None):
            raise ConfigError("near=(a, b) and within_m=meters belong together; give both or none")
        where = None if near is None or within_m is None else Circle(near, within_m)
        search, facts = encoder.config.search, encoder.engine.facts
        plan = plan_search(self._tiles, top, search.recall_n, search.consistency_m, where)
        encoded = encoder.encode(images, view)
        recall_QD, rerank_QE = encoded[encoder.descriptors[0]], encoded.get(PHI)
        origin = (facts["checkpoint_sha256"], facts.get("reduction_sha256"))
        queries = Queries(len(recall_QD), *origin, recall_QD.shape[1], rerank_QE is not None)
        require_fit(self._tiles.card, queries, "load an encoder with the output phi")
        batch = Batch([str(number) for number in range(len(recall_QD))], recall_QD, rerank_QE)
        answered = search_all(self._tiles, [batch], Summary(plan))
        return [[Answer(**answer) for answer in answers] for _, answers in answered]

    def close(self) -> None:
        """Release the files or the connection."""
        self._tiles.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build_index(
    address: PathLike,
    descriptors: PathLike,
    *,
    kind: str = "flat",
    pca: PathLike | None = None,
    parameters: Mapping[str, int] | None = None,
) -> Index:
    """Build an index of the tiles that ``extract`` encoded; when complete, it replaces an older index there.

    Args:
        address: directory of the index, or a Milvus collection: "milvus:NAME.db", "milvus:http://host:19530".
        descriptors: output directory of ``extract``.
        kind: "flat" (exact), "ivf_flat", "ivf_pq", "hnsw"; on a Milvus server also "diskann".
        pca: file written by ``mindloc pca``, to reduce the recall descriptors; None: no reduction.
        parameters: parameters of the kind, such as {"nlist": 1024}; the others get their defaults.

    Raises:
        DataError: the descriptor sets are missing or damaged.
        ConfigError: the kind does not read one of the parameters.
        TileIndexError: something else is at the address, the kind needs more tiles, or the disk is full.
    """
    make_index(str(address), load_extracted(Path(descriptors), Path(pca) if pca else None), kind, parameters or {})
    return open_index(address)


def open_index(address: PathLike) -> Index:
    """Open the index in a directory or Milvus collection.

    Raises:
        TileIndexError: the index is missing, damaged or not reachable.
        DeviceError: the search library is not installed.
    """
    return Index(open_tile_index(str(address)))


def evaluate(
    encoder: Encoder,
    out: PathLike,
    *,
    data_root: PathLike | None = None,
    split: SplitName = "test",
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Encode a split, score it, and write report and figures.

    Args:
        out: directory of the report, new or of an earlier evaluation.
        data_root: data set in the layout of the encoder's reader; None: data.root of its config.
        split: "test" or "train".
        overrides: "section.key=value" in the sections data, eval, search and run.

    Returns:
        The content of report.json: ``report["methods"]["model"]["pos"]["recall@1"]`` is 0..1; distances are in meters.

    Raises:
        DataError: the data is missing or broken, or ``out`` contains something else.
        ConfigError: an override names a key that is unknown, fixed by the checkpoint, or read by no part.
        ExportError: the exported files take images of a different size.
    """
    config = override_for_evaluation(encoder.config, overrides)
    if data_root is not None:
        config = config.with_root(data_root)
    encoder._source.require_inputs(config)
    chosen = read_split(config.data, split)
    training = chosen if split == "train" else find_split(config.data, "train")
    evaluation.check_before_encoding(config, chosen, out)
    compare_with_exact(encoder.engine, config, {side: chosen.paths(side) for side in SIDES}, encoder._say)
    return evaluation.evaluate(encoder.engine, config, chosen, out, training)


def train(
    config: Config | PathLike | None = None,
    *,
    overrides: Sequence[str] = (),
    run_directory: PathLike | None = None,
    resume: PathLike | None = None,
) -> Path:
    """Train an encoder on one device; for several devices use the command ``mindloc train``.

    Args:
        config: settings, the name of a shipped config such as "world_tiny", or a YAML file.
        overrides: "section.key=value", in order.
        run_directory: new directory of the run; None: ``run.work_dir``/NAME/MMDDhhmmss.
        resume: run directory to resume with its own settings, exactly where it stopped.

    Returns:
        The run directory, which ``load`` accepts.

    Raises:
        MindlocError: raised as the subclass that names the cause: config, data, checkpoint, device.
    """
    if resume is not None and (config is not None or run_directory is not None):
        raise ConfigError("resume uses the run's own config and directory; leave out config and run_directory")
    resumed = None if resume is None else RunDirectory.open(resume)
    if isinstance(config, Config):
        settings = override_config(config, overrides)
    else:
        settings = load_config(resumed.config_path if resumed else config, overrides, of_run=resumed is not None)
    if len(settings.run.device_ids) > 1:
        raise ConfigError("run.device_ids names several cards, but train uses one; use mindloc train for several")
    device = use_device(settings.run.device_target, settings.run.device_ids[0], settings.run.operator_fusion)
    log.info("device: %s", device.description)

    from mindloc.training import trainer  # after the device is chosen: it imports MindSpore

    training = trainer.prepare(settings, resumed)
    run = resumed or trainer.new_run(settings, run_directory)
    trainer.train(training, run)
    return run.path
