"""Learning-rate scale, decay and freezing of each parameter."""

from collections.abc import Sequence

import pytest
from mindspore import Parameter

from mindloc.config import load_config
from mindloc.config.sections import OptimizerConfig
from mindloc.errors import ConfigError
from mindloc.models.parameters import parameter
from mindloc.registry import BACKBONES
from mindloc.training.optimizer import ParameterRow, parameter_table

PARAMETERS = [
    parameter("backbone.blocks.1.norm1.weight", 8),
    parameter("backbone.blocks.1.mlp.fc1.weight", 32, 8),
    parameter("backbone.blocks.10.mlp.fc1.weight", 32, 8),
    parameter("backbone.blocks.1.gamma_1", 8),
    parameter("log_logit_scale", 1),
]


def table_of(parameters: Sequence[Parameter], **settings) -> list[ParameterRow]:
    return parameter_table(parameters, OptimizerConfig(**settings))


def test_the_recipe_decays_all_parameters():
    assert [row.decay for row in table_of(PARAMETERS, weight_decay=0.01)] == [0.01] * 5


def test_norm_bias_layer_scale_and_logit_scale_can_be_without_decay():
    table = table_of(PARAMETERS, weight_decay=0.01, decay_norm_and_bias=False)
    assert [row.decay for row in table] == [0.0, 0.01, 0.01, 0.0, 0.0]


@pytest.mark.parametrize(
    ("backbone", "tokens"),
    [("vit_tiny_patch16_224", {"cls_token": 0.0, "pos_embed": 0.0}), ("tiny", {"reg_token": 0.01})],
)
def test_positions_and_class_token_are_treated_like_norms(backbone, tokens):
    """timm's no_weight_decay does the same; it does not contain the register tokens."""
    model = load_config(None, [f"model.backbone={backbone}"]).model
    parameters = BACKBONES[backbone].build(model, "fp32", "plain").trainable_params()
    assert {row.decay for row in table_of(parameters, weight_decay=0.01)} == {0.01}
    table = table_of(parameters, weight_decay=0.01, decay_norm_and_bias=False)
    assert {row.name: row.decay for row in table if row.name.endswith(("_token", "pos_embed"))} == tokens
    for row, one in zip(table, parameters, strict=True):
        assert row.decay == tokens.get(row.name, 0.01 if len(one.shape) > 1 else 0.0)


def test_a_prefix_ends_at_a_dot():
    table = table_of(PARAMETERS, weight_decay=0.0, freeze=["backbone.blocks.1"])
    assert [row.frozen for row in table] == [True, True, False, True, False]  # block 10 is not block 1


def test_the_longest_prefix_sets_the_scale():
    table = table_of(PARAMETERS, weight_decay=0.0, lr_scale={"backbone": 0.1, "backbone.blocks.10": 0.5})
    assert [row.lr_scale for row in table] == [0.1, 0.1, 0.5, 0.1, 1.0]
    assert table[4] == ParameterRow("log_logit_scale")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"freeze": ["backbon"]},
            "optimizer.freeze has 'backbon', which matches no parameter; names start with backbone",
        ),
        ({"lr_scale": {"head": 2.0}}, "optimizer.lr_scale has 'head'"),
        ({"freeze": ["backbone", "log_logit_scale"]}, "freezes all 5 parameters"),
    ],
)
def test_prefixes_without_a_match_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        table_of(PARAMETERS, weight_decay=0.0, **settings)
