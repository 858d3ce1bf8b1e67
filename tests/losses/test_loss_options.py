"""The loss that a config names is built, for any descriptor; a new loss needs one function and one entry."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindloc.config import load_config
from mindloc.losses.cosine import CosineEmbedding, CosineTriplet
from mindloc.losses.criterion import build_criterion
from mindloc.losses.infonce import Infonce, WeightedInfonce
from mindloc.registry import HEADS, LOSSES, LossEntry
from mindloc.training.step import MeanGradients

KINDS = {
    "weighted_infonce": WeightedInfonce,
    "infonce": Infonce,
    "cosine_embedding": CosineEmbedding,
    "cosine_triplet": CosineTriplet,
}


def test_the_table_has_every_loss():
    assert LOSSES.keys() == KINDS.keys()


@pytest.mark.parametrize("name", KINDS)
def test_every_descriptor_can_have_every_loss(name):
    by_itself = build_criterion(load_config(None, [f"loss.name={name}"]))
    two = ["head.name=two_stage", f"loss.omega={name}", f"loss.phi={name}", "loss.beta=0.25"]
    stages = build_criterion(load_config(None, two))
    assert [type(loss) for loss in (*by_itself.losses, *stages.losses)] == [KINDS[name]] * 3
    assert stages.component_names == ("omega", "phi") and stages.weights == (0.25, 0.75)
    directions = ("query_to_reference", "reference_to_query")
    assert by_itself.component_names == (directions if "infonce" in name else ("global",))
    assert by_itself.targets == stages.targets == (("iou",) if name == "weighted_infonce" else ())


def test_further_descriptors_share_one_minus_beta(monkeypatch):
    losses = {"omega": "loss.omega", "phi": "loss.phi", "third": "loss.phi"}
    entry = HEADS["two_stage"]
    monkeypatch.setitem(HEADS, "two_stage", type(entry)(builder=entry.builder, reads=entry.reads, losses=losses))
    criterion = build_criterion(load_config(None, ["head.name=two_stage", "loss.beta=0.5"]))
    assert criterion.component_names == ("omega", "phi", "third") and criterion.weights == (0.5, 0.25, 0.25)


class OffsetLoss(nn.Cell):
    """Mean length of the offsets, in pixels, times the mean product of the descriptors; by hand in the test."""

    targets, component_names = ("offset_px",), ()

    def construct(self, query_GD, reference_GD, logit_scale, targets, mask_GG):
        length_G = ops.sqrt(ops.sum(targets["offset_px"] * targets["offset_px"], 1))
        return ops.mean(length_G) * ops.mean(query_GD * reference_GD), ()


def build_offset_loss(loss):
    return OffsetLoss()


class Scale(nn.Cell):
    """An encoder with one weight."""

    def __init__(self):
        super().__init__()
        self.factor = ms.Parameter(Tensor([2.0], ms.float32), name="factor")

    def construct(self, query, reference):
        return {"query.global": query * self.factor, "reference.global": reference, "logit_scale": self.factor}


def test_a_loss_with_another_target_is_one_function_and_one_entry(monkeypatch):
    monkeypatch.setitem(LOSSES, "offset", LossEntry(builder=f"{__name__}:build_offset_loss"))
    criterion = build_criterion(load_config(None, ["loss.name=offset"]))
    assert criterion.targets == ("offset_px",) and criterion.component_names == ("global",)
    encoder = Scale()
    step = MeanGradients(encoder, criterion, ms.ParameterTuple(encoder.trainable_params()), 1, nn.Identity())
    query, reference, offset = np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])
    arrays = [Tensor(array.astype(np.float32)) for array in (query, reference)]
    mask, scale = Tensor(np.ones((2, 2), bool)), Tensor(1.0, ms.float32)
    loss, components, gradients = step(*arrays, mask, scale, Tensor(offset.astype(np.float32)))
    # lengths 5 and 1: mean 3; products 2 and 6: mean 4; gradient by the factor of the encoder: 3 * (1 + 3) / 2
    assert float(loss) == float(components[0]) == 12.0 and float(gradients[0]) == 6.0
