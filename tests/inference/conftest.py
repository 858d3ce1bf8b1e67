"""A small encoder's checkpoint and its exported files."""

import numpy as np
import pytest
from shallow import shallow_tiny

from mindloc.config import config_to_dict, load_config

IN_STAGES = ["model.backbone=tiny", "head.name=two_stage", "head.channels=8", "head.nodes=3", "head.centroids=true"]
IN_STAGES += ["data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]"]
SETTINGS = ["model.backbone=tiny", "data.query_size_px=[32, 48]", "data.reference_size_px=[32, 32]"]
SETTINGS += ["model.mean=[0.5, 0.4, 0.3]", "model.std=[0.2, 0.25, 0.3]"]


@pytest.fixture(scope="module", autouse=True)
def shallow():
    pytest.importorskip("mindspore")
    with shallow_tiny():
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(checkpoint, directory with both sides as MINDIR and ONNX of batch 3, directory with a drone ONNX of pixels)"""
    pytest.importorskip("onnxruntime")
    run = tmp_path_factory.mktemp("run")
    pixels = ("ONNX", "drone", 4, None, True, True)
    files = {"export": [("MINDIR", "both", 3), ("ONNX", "both", 3)], "pixels": [pixels]}
    return save_and_export(run, SETTINGS, files), run / "export", run / "pixels"


@pytest.fixture(scope="session")
def exported_in_stages(tmp_path_factory):
    """(checkpoint of an encoder of Omega, Phi and centroids, directory with it as MINDIR of any batch and ONNX of 3)"""
    pytest.importorskip("onnxruntime")
    run = tmp_path_factory.mktemp("run")
    return save_and_export(run, IN_STAGES, {"export": [("MINDIR",), ("ONNX", "both", 3)]}), run / "export"


def save_and_export(run, settings, files):
    """Write a checkpoint and its exported files; ``files``: directory -> arguments of the export requests for it."""
    pytest.importorskip("mindspore")
    from mindloc.export.build import ExportRequest, export_checkpoint

    with shallow_tiny():
        checkpoint = save_checkpoint(run, settings)
        for directory, requests in files.items():
            for request in requests:
                export_checkpoint(checkpoint, run / directory, ExportRequest(*request))
    return checkpoint


def save_checkpoint(run, settings):
    """Save weights that are larger than the initial ones, so that every block changes its input visibly."""
    ms = pytest.importorskip("mindspore")
    from mindloc.models.build import build_encoder
    from mindloc.runtime.checkpoint import save_weights

    ms.set_context(mode=ms.GRAPH_MODE)
    config = load_config(overrides=settings)
    random = np.random.default_rng(0)
    arrays = {
        name: value.asnumpy() + 0.05 * random.standard_normal(value.shape).astype(np.float32)
        for name, value in build_encoder(config).parameters_and_names()
    }
    checkpoint = run / "checkpoints" / "weights.safetensors"
    save_weights(checkpoint, arrays, config_to_dict(config), epoch=1)
    return checkpoint
