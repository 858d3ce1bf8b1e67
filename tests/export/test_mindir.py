"""MINDIR files: reloaded they answer as the live encoder, and a file that does not is never written."""

import hashlib
import json

import numpy as np
import pytest

pytest.importorskip("mindspore")

import mindspore as ms
from mindspore import nn, ops

from mindloc.config import config_to_dict, load_config
from mindloc.errors import CheckpointError, ConfigError, ExportError
from mindloc.export.artifact import ExportSpec
from mindloc.export.build import export_checkpoint
from mindloc.export.mindir import export_mindir
from mindloc.runtime.checkpoint import save_weights

SETTINGS = ["model.backbone=tiny", "data.drone_size_px=[32, 48]", "data.satellite_size_px=[32, 32]"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from mindloc.models.build import build_encoder

    ms.set_context(mode=ms.GRAPH_MODE)
    config = load_config(overrides=SETTINGS)
    arrays = {name: value.asnumpy() for name, value in build_encoder(config).parameters_and_names()}
    path = tmp_path_factory.mktemp("export") / "weights.safetensors"
    save_weights(path, arrays, config_to_dict(config), epoch=1)
    return path


def test_any_number_of_pictures_equals_the_live_encoder(checkpoint, tmp_path):
    from mindloc.inference.build import load_engine

    export_checkpoint(checkpoint, tmp_path, views=("drone",))
    saved = nn.GraphCell(ms.load(str(tmp_path / "drone.mindir")))
    engine, _ = load_engine(checkpoint, batch_size=5)
    for count in (1, 5):
        pictures = np.random.default_rng(count).standard_normal((count, 3, 32, 48)).astype(np.float32)
        live = engine.encode({"drone": pictures})["drone.global"]
        np.testing.assert_allclose(saved(ms.Tensor(pictures)).asnumpy(), live, atol=1e-5 * np.abs(live).max())


def test_the_card_says_what_goes_in_and_where_it_comes_from(checkpoint, tmp_path):
    differences = export_checkpoint(checkpoint, tmp_path, views=("satellite",), batch_size=2)
    path = tmp_path / "satellite.mindir"
    assert list(differences) == [path] and differences[path] <= 1e-5
    card = json.loads((tmp_path / "satellite.mindir.json").read_text())
    assert card["input"]["shape"] == [2, 3, 32, 32] and card["input"]["mean"] == [0.5, 0.5, 0.5]
    assert card["dimension"] == 192 and card["output"]["name"] == "satellite.global"
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert card["config"]["model"]["backbone"] == "tiny"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["satellite.mindir", "satellite.mindir.json"]


class Mean(nn.Cell):
    """Descriptor = mean color; small enough for every test."""

    def construct(self, images):
        return {"drone.global": ops.mean(images, (2, 3))}


SPEC = ExportSpec("drone", (8, 8), 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_graph_that_answers_otherwise_is_never_written(tmp_path, monkeypatch):
    (tmp_path / "drone.mindir").write_text("older")

    class Liar:
        def __init__(self, graph):
            self.graph = nn.GraphCell(graph)

        def __call__(self, images):
            return self.graph(images) * 1.001

    class FakeNn:
        GraphCell = Liar

    monkeypatch.setattr("mindloc.export.mindir.nn", FakeNn)
    with pytest.raises(ExportError, match=r"differs from the live one by 1.0e-03 of the largest entry"):
        export_mindir(Mean(), SPEC, tmp_path / "drone.mindir", {})
    assert [file.name for file in tmp_path.iterdir()] == ["drone.mindir"]
    assert (tmp_path / "drone.mindir").read_text() == "older"


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"ends in '.onnx'"):
        export_mindir(Mean(), SPEC, tmp_path / "drone.onnx", {})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"file_format": "air"}, "'air' is not among mindir"),
        ({"views": ("street",)}, r"\['street'\]; choose from drone, satellite"),
        ({"batch_size": 0}, "batch size is 0"),
    ],
)
def test_unknown_wishes_are_named(tmp_path, asked, message):
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(tmp_path / "x.safetensors", tmp_path, **asked)


def test_a_missing_checkpoint_writes_nothing(tmp_path):
    with pytest.raises(CheckpointError):
        export_checkpoint(tmp_path / "x.safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
