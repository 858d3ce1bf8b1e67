"""What the builders of a training leave to the optimizer."""

import mindspore as ms
import numpy as np

from mindloc.config import load_config
from mindloc.losses.criterion import build_criterion
from mindloc.models.build import build_encoder
from mindloc.training.build import one_engine
from mindloc.training.checkpointing import state_of, weights_of
from mindloc.training.optimizer import AdamW
from mindloc.training.step import GradCache, TrainStep


def test_statistics_are_saved_and_never_trained():
    ms.set_context(mode=ms.GRAPH_MODE)
    sizes = ["data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]"]
    config = load_config(None, ["model.backbone=resnet50", "head.name=two_stage", "head.channels=8", *sizes])
    encoder = build_encoder(config)
    step = TrainStep(
        encoder, build_criterion(config), AdamW(encoder.trainable_params(), config.optimizer), config.train
    )
    statistics = {name for name in weights_of(step) if name.endswith(("running_mean", "running_var"))}
    trained = {parameter.name for parameter in step.optimizer.parameters}
    assert len(statistics) == 2 * 43  # ResNet-50 up to conv4_x has 1 + 3 * 3 + 4 * 3 + 6 * 3 + 3 norms
    assert trained == set(weights_of(step)) - statistics
    assert not any(name.endswith(("running_mean", "running_var")) for name in state_of(step))
    assert not any(encoder.parameters_dict()[name].requires_grad for name in statistics)


def test_a_grad_cache_takes_the_parts_of_the_config():
    config = load_config(None, ["model.backbone=tiny", "train.accumulate=8", "train.grad_cache=true"])
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    step = TrainStep(encoder, build_criterion(config), optimizer, config.train)
    assert isinstance(step.mean_gradients, GradCache) and step.mean_gradients.parts == 8


def test_an_engine_is_kept_for_its_encoder_and_another_gets_its_own():
    sizes = ["data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]", "eval.batch_size=1"]
    config = load_config(None, ["model.backbone=tiny", *sizes])
    one, other = build_encoder(config), build_encoder(config)
    for parameter in other.get_parameters():
        parameter.set_data(ms.Tensor(np.random.RandomState(1).standard_normal(parameter.shape), ms.float32))
    engine_of = one_engine(config)
    engine = engine_of(one)
    assert engine_of(one) is engine
    picture_13HW = np.random.RandomState(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    descriptors = [engine_of(encoder).encode({"query": picture_13HW})["query.global"] for encoder in (one, other)]
    assert not np.allclose(*descriptors, atol=1e-3)
