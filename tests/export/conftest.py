"""Checkpoints of small encoders to export."""

import pytest
from shallow import shallow_tiny

from mindloc.config import config_to_dict, load_config


@pytest.fixture(scope="module", autouse=True)
def shallow():
    pytest.importorskip("mindspore")
    with shallow_tiny():
        yield


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """A function that saves the weights of a seeded tiny encoder with the given settings and returns the file."""
    ms = pytest.importorskip("mindspore")
    from mindloc.models.build import build_encoder
    from mindloc.runtime.checkpoint import save_weights

    ms.set_context(mode=ms.GRAPH_MODE)

    def make(*settings):
        config = load_config(overrides=["model.backbone=tiny", *settings])
        with shallow_tiny():
            arrays = {name: value.asnumpy() for name, value in build_encoder(config).parameters_and_names()}
        path = tmp_path_factory.mktemp("run") / "checkpoints" / "weights.safetensors"
        save_weights(path, arrays, config_to_dict(config), epoch=1)
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint):
    """A checkpoint whose sides have different image sizes."""
    return make_checkpoint("data.query_size_px=[32, 48]", "data.reference_size_px=[32, 32]")


@pytest.fixture(scope="session")
def twin_checkpoint(make_checkpoint):
    """A checkpoint whose sides have the same image size."""
    return make_checkpoint("data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]")
