"""From a checkpoint, which carries its config, to an engine."""

from pathlib import Path
from typing import Any

import numpy as np

from mindloc.config import config_from_dict
from mindloc.config.schema import Config
from mindloc.errors import CheckpointError
from mindloc.inference.engine import MindSporeEngine
from mindloc.runtime.checkpoint import load_weights


def load_engine(checkpoint: str | Path, batch_size: int | None = None) -> tuple[MindSporeEngine, Config]:
    """The engine of a checkpoint and the config that the checkpoint carries.

    Args:
        batch_size: None takes ``eval.batch_size`` of that config.

    Raises:
        CheckpointError: missing, damaged, or not the weights of the model that its config describes.
        ConfigError: the config it carries is not one of this program.
    """
    encoder, config, sha256 = load_encoder(checkpoint)
    return MindSporeEngine(encoder, batch_size or config.eval.batch_size, config.train.precision, sha256), config


def load_encoder(checkpoint: str | Path) -> tuple[Any, Config, str]:
    """(encoder in evaluation mode, its config, sha256 of the file); errors as ``load_engine``."""
    from mindloc.models.build import build_encoder  # here, so that scoring from disk needs no MindSpore

    weights = load_weights(checkpoint)
    config = config_from_dict(weights.config)
    config.model.pretrained = None  # the checkpoint's own weights replace them
    encoder = build_encoder(config)
    encoder.set_train(False)
    parameters = dict(encoder.parameters_and_names())
    weights.require({name: tuple(parameter.shape) for name, parameter in parameters.items()})
    for name, parameter in parameters.items():
        _fill(parameter, weights.arrays[name], weights.path)
    return encoder, config, weights.sha256


def _fill(parameter: Any, array: np.ndarray, path: Path) -> None:
    import mindspore as ms

    if not np.isfinite(array).all():
        raise CheckpointError(f"checkpoint {path}: {parameter.name} holds NaN or infinity; take an older checkpoint")
    parameter.set_data(ms.Tensor(array, parameter.dtype))
