"""A backbone or a head is one file and one entry: those of this file are built, trained and filled with weights."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from safetensors.numpy import save_file

from mindloc.config import load_config
from mindloc.errors import CheckpointError
from mindloc.losses.criterion import build_criterion
from mindloc.models.build import build_encoder
from mindloc.models.layers import Linear
from mindloc.models.parameters import parameter
from mindloc.models.public_weights import ImportRule
from mindloc.registry import BACKBONES, HEADS, BackboneEntry, HeadEntry
from mindloc.vocabulary import OMEGA, PHI

CELL_PX, IMAGES = 8, np.random.RandomState(0).standard_normal((2, 3, 16, 24)).astype(np.float32)


class Colors(nn.Cell):
    """A backbone: the mean colors of every square of 8 pixels, through one linear layer."""

    import_rule = ImportRule(unused=r"^classifier\.", foreign=r"^second\.")

    def __init__(self, width=12):
        super().__init__()
        self.width, self.stride, self.blocks = width, CELL_PX, []
        self.linear = Linear(3, width)
        self.bias = parameter("bias", width, fill=0.5)

    def features(self, images):
        count, _, height, width = images.shape
        rows, columns = height // CELL_PX, width // CELL_PX
        squares = ops.reshape(images, (count, 3, rows, CELL_PX, columns, CELL_PX))
        color_MK = ops.reshape(ops.transpose(ops.mean(squares, (3, 5)), (0, 2, 3, 1)), (-1, 3))
        return ops.reshape(self.linear(color_MK) + self.bias, (count, rows * columns, self.width))

    def construct(self, images):
        return ops.mean(self.features(images), 1)


class Corners(nn.Cell):
    """A head: the first and the last position of a map."""

    descriptors = (OMEGA, PHI)

    def construct(self, features_BNC, rows, columns):
        return features_BNC[:, 0], features_BNC[:, rows * columns - 1]


def build_colors(model, precision, form):
    return Colors()


def build_corners(head, width):
    return Corners()


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    ms.set_context(mode=ms.GRAPH_MODE)
    monkeypatch.setitem(BACKBONES, "colors", BackboneEntry(builder=f"{__name__}:build_colors", stride=CELL_PX))
    losses = {OMEGA: "loss.omega", PHI: "loss.phi"}
    reads = ("loss.omega", "loss.phi", "loss.beta")
    monkeypatch.setitem(HEADS, "corners", HeadEntry(builder=f"{__name__}:build_corners", losses=losses, reads=reads))


def config_of(*words):
    sizes = ("data.query_size_px=[16, 24]", "data.reference_size_px=[16, 24]")
    return load_config(None, ["model.backbone=colors", *sizes, *words])


def test_a_backbone_of_one_file_and_one_entry():
    encoder = build_encoder(config_of())
    starts = {name: value.asnumpy() for name, value in encoder.parameters_and_names()}
    assert starts["backbone.linear.weight"].std() > 0 and (starts["backbone.bias"] == 0.5).all()
    color_BK = IMAGES.mean((2, 3))
    expected = color_BK @ starts["backbone.linear.weight"].T + 0.5
    images = Tensor(IMAGES)
    np.testing.assert_allclose(encoder(images, images)["query.global"].asnumpy(), expected, atol=1e-6)


def test_weights_of_the_backbone_are_read_by_its_own_rule(tmp_path):
    config = config_of()
    arrays = {"linear.weight": np.ones((12, 3)), "linear.bias": np.zeros(12), "bias": np.ones(12)}
    arrays = {f"model.{name}": array.astype(np.float32) for name, array in arrays.items()}
    path, said = tmp_path / "public.safetensors", []
    save_file({**arrays, "model.classifier.weight": np.ones(3, np.float32)}, str(path))
    encoder = build_encoder(config.with_values({"model.pretrained": str(path)}), said.append)
    assert (encoder.backbone.linear.weight.asnumpy() == 1).all()
    assert len(said) == 1 and "3 parameters matched; 1 ignored (model.classifier.weight)" in said[0]
    save_file({**arrays, "model.second.weight": np.ones(3, np.float32)}, str(path))
    with pytest.raises(CheckpointError, match="1 unexpected .second.weight.*set model.backbone to match the weights"):
        build_encoder(config.with_values({"model.pretrained": str(path)}))


@pytest.mark.parametrize("share", ["true", "false"])
def test_a_head_of_one_file_and_one_entry(share):
    config = config_of("head.name=corners", f"model.share_weights={share}")
    encoder, criterion = build_encoder(config), build_criterion(config)
    assert encoder.compared == criterion.component_names == (OMEGA, PHI)
    images = Tensor(IMAGES)
    outputs = encoder.side_encoder("query")(images)
    map_BNC = encoder.backbone_of("query").features(images).asnumpy()
    for name, position in (("query.omega", 0), ("query.phi", 2 * 3 - 1)):
        np.testing.assert_allclose(outputs[name].asnumpy(), map_BNC[:, position], atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_each_loss_of_a_head_belongs_to_one_of_its_descriptors(name):
    entry, head = HEADS[name], HEADS[name].build(load_config().head, 12)
    assert set(entry.losses) <= set(("global",) if head is None else head.descriptors)


def test_a_backbone_whose_stride_differs_from_its_entry_is_refused(monkeypatch):
    monkeypatch.setitem(BACKBONES, "colors", dataclasses.replace(BACKBONES["colors"], stride=CELL_PX + 1))
    with pytest.raises(ValueError, match=f"colors has stride {CELL_PX}, but its entry in BACKBONES says {CELL_PX + 1}"):
        build_encoder(config_of("data.query_size_px=[18, 27]", "data.reference_size_px=[18, 27]"))
