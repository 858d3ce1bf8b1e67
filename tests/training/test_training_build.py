"""The parameters that the optimizer of a built training step gets, and the parts of a batch."""

import mindspore as ms

from mindloc.config import load_config
from mindloc.losses.criterion import build_criterion
from mindloc.models.build import build_encoder
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


def test_grad_cache_uses_the_parts_of_the_config():
    config = load_config(None, ["model.backbone=tiny", "train.accumulate=8", "train.grad_cache=true"])
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    step = TrainStep(encoder, build_criterion(config), optimizer, config.train)
    assert isinstance(step.mean_gradients, GradCache) and step.mean_gradients.parts == 8
