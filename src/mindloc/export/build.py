"""From a checkpoint to exported files, in the format that was asked for."""

from pathlib import Path

from mindloc.config import config_to_dict
from mindloc.errors import ConfigError
from mindloc.export.artifact import ExportSpec
from mindloc.export.mindir import export_mindir
from mindloc.inference.build import load_encoder
from mindloc.models.encoder import VIEWS

EXPORTERS = {"mindir": export_mindir}  # a new format is one file with a function of this shape, and one entry here


def export_checkpoint(
    checkpoint: str | Path,
    folder: str | Path,
    views: tuple[str, ...] = VIEWS,
    file_format: str = "mindir",
    batch_size: int | None = None,
) -> dict[Path, float]:
    """Export the encoder of each view as ``{folder}/{view}.{file_format}``, with a card beside it.

    Args:
        batch_size: fixed number of pictures per call; None takes any number.

    Returns:
        File -> largest difference from the live encoder, as a share of the largest entry.

    Raises:
        ConfigError: an unknown format or view, or a batch size below 1.
        CheckpointError, ExportError: as ``load_encoder`` and the exporter.
    """
    if file_format not in EXPORTERS:
        raise ConfigError(f"export format {file_format!r} is not among {', '.join(EXPORTERS)}")
    unknown = [view for view in views if view not in VIEWS]
    if unknown or not views:
        raise ConfigError(f"views to export are {list(views)}; choose from {', '.join(VIEWS)}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"export batch size is {batch_size}, expected 1 or more, or none for any number of pictures")
    encoder, config, sha256 = load_encoder(checkpoint)
    facts = {"checkpoint_sha256": sha256, "precision": config.train.precision, "config": config_to_dict(config)}
    differences = {}
    for view in views:
        size_px, cut_border = config.view_input(view)
        spec = ExportSpec(view, size_px, batch_size, config.model.mean, config.model.std, cut_border)
        path = Path(folder) / f"{view}.{file_format}"
        differences[path] = EXPORTERS[file_format](encoder.view_encoder(view), spec, path, facts)
    return differences
