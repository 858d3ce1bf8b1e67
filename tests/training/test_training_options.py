"""Options of optimizer, schedule and step have their effect."""

import mindspore as ms
import pytest

from mindloc.config import load_config
from mindloc.losses.criterion import build_criterion
from mindloc.models.build import build_encoder
from mindloc.training.optimizer import AdamW
from mindloc.training.schedule import Schedule
from mindloc.training.step import TrainStep


def step_of(*overrides: str) -> TrainStep:
    ms.set_context(mode=ms.GRAPH_MODE)
    config = load_config(None, ["model.backbone=tiny", *overrides])
    encoder = build_encoder(config)
    optimizer = AdamW(encoder.trainable_params(), config.optimizer)
    return TrainStep(encoder, build_criterion(config), optimizer, config.train)


def schedule_of(*overrides: str) -> Schedule:
    config = load_config(None, list(overrides))
    return Schedule(config.schedule, config.optimizer.lr, config.train.epochs)


def settings_of(step: TrainStep) -> dict[str, tuple[float, float]]:
    """Parameter name -> (factor on the learning rate, decay) of the trained parameters."""
    optimizer = step.optimizer
    return {
        parameter.name: optimizer.groups[group]
        for parameter, group in zip(optimizer.parameters, optimizer.group_of, strict=True)
    }


@pytest.mark.parametrize(
    ("override", "progress", "rate"),
    [
        # 4 epochs without warm-up, from 0.8 to 0: halfway, cosine and line are at 1/2 of 0.8, the square at 1/4
        ("schedule.name=cosine", 2.0, 0.4),
        ("schedule.name=polynomial", 2.0, 0.4),
        ("schedule.name=polynomial, schedule.power=2.0", 2.0, 0.2),
        ("schedule.name=constant", 3.9, 0.8),
        ("schedule.name=polynomial, schedule.end_lr=0.2", 2.0, 0.5),  # halfway between 0.8 and 0.2
        ("schedule.name=constant, schedule.warmup_epochs=2.0", 1.0, 0.4),
    ],
)
def test_the_learning_rate_decays_by_the_options(override, progress, rate):
    words = ["train.epochs=4", "optimizer.lr=0.8", "schedule.warmup_epochs=0.0", *override.split(", ")]
    assert schedule_of(*words).at(progress) == pytest.approx(rate)


def test_shapes_of_the_schedule_by_name():
    words = (["schedule.name=polynomial"], ["schedule.name=polynomial", "schedule.power=3.0"], ["schedule.end_lr=1e-6"])
    facts = [schedule_of(*overrides).describe() for overrides in words]
    assert (facts[0]["name"], facts[1]["power"], facts[2]["end_lr"]) == ("polynomial", 3.0, 1e-6)
    assert schedule_of("schedule.name=constant").describe()["name"] == "constant"


@pytest.mark.parametrize(
    ("override", "attribute", "value"),
    [
        ("optimizer.clip=norm", "clip", "norm"),
        ("optimizer.clip=none", "clip", "none"),
        ("optimizer.clip_at=2.5", "clip_at", 2.5),
    ],
)
def test_clipping_reaches_the_step(override, attribute, value):
    assert getattr(step_of(override).clip, attribute) == value


def test_adam_has_its_options():
    optimizer = step_of("optimizer.betas=[0.5, 0.75]", "optimizer.eps=1e-6").optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.5, 0.75, 1e-6)


def test_prefixes_freeze_and_slow_parameters():
    settings = settings_of(
        step_of("optimizer.freeze=[backbone.patch_embed]", "optimizer.lr_scale={backbone.blocks.0: 0.5}")
    )
    assert not any(name.startswith("backbone.patch_embed.") for name in settings)
    scales = {name: scale for name, (scale, _) in settings.items()}
    slowed = {name for name, scale in scales.items() if scale == 0.5}
    assert slowed == {name for name in scales if name.startswith("backbone.blocks.0.")} != set()
    assert {scale for name, scale in scales.items() if name not in slowed} == {1.0}


def test_norms_and_biases_are_decayed_unless_switched_off():
    matrices = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")
    for value, decays in ((True, {0.03}), (False, {0.0})):
        settings = settings_of(step_of("optimizer.weight_decay=0.03", f"optimizer.decay_norm_and_bias={value}"))
        assert {decay for name, (_, decay) in settings.items() if name.endswith((".bias", "norm1.weight"))} == decays
        assert {decay for name, (_, decay) in settings.items() if name.endswith(matrices)} == {0.03}


def test_the_loss_scale_starts_and_doubles_by_its_options():
    options = ("train.precision=fp16", "train.loss_scale_init=64.0", "train.loss_scale_window=9")
    scale = step_of(*options).loss_scale
    assert (float(scale.scale.asnumpy()), scale.window, scale.dynamic) == (64.0, 9, True)
    assert not step_of().loss_scale.dynamic


def test_blocks_are_recomputed_on_request():
    for words, recomputed in ((("train.recompute=true",), True), ((), False)):
        blocks = step_of(*words).encoder.backbone_of("query").blocks
        assert [block._recompute_cell is not None for block in blocks] == [recomputed] * 6
