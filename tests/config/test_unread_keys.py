"""A value that nothing reads is refused of whoever writes it, and taken where a run or a checkpoint holds it."""

import pytest
import yaml

from mindloc.config import config_from_dict, config_to_dict, load_config, override_config
from mindloc.errors import ConfigError

TWO_STAGES = ["head.name=two_stage", "data.drone_size_px=[96, 96]", "data.satellite_size_px=[96, 96]"]
UNREAD = [  # (choices, a key that they leave unread, what is said of it)
    (
        ["model.backbone=resnet50"],
        "model.patch_px=8",
        "8; expected 16 with model.backbone=resnet50; it is for the RoPE",
    ),
    (["model.backbone=resnet50"], "model.reference_grid=6", "6; expected 16 with model.backbone=resnet50"),
    (["model.backbone=vgg16"], "model.layer_scale_init=1.0", "1.0; expected 0.1 with model.backbone=vgg16"),
    (["model.backbone=vgg16"], "model.pool=avg", "avg; expected token with model.backbone=vgg16; it is for timm's"),
    (["model.backbone=vit_tiny_patch16_224"], "model.reference_grid=6", "it is for the RoPE ViTs alone"),
    ([], "search.recall_n=50", "50; expected 100 with head.name=global; it is for two_stage alone"),
    ([], "search.consistency_m=5", "5; expected 0 with head.name=global; it is for two_stage alone"),
    ([], "loss.negatives=hardest", "hardest; expected all with head.name=global"),
    (["loss.name=infonce"], "loss.k=3.0", "3.0; expected 5.0 with loss.name=infonce; set loss.name=weighted_infonce"),
    (
        TWO_STAGES,
        "loss.k=3.0",
        "5.0 with loss.omega=cosine_embedding and loss.phi=cosine_triplet; set loss.omega=weigh",
    ),
    ([*TWO_STAGES, "loss.omega=infonce"], "loss.omega_margin=0.1", "0.0 with loss.omega=infonce and"),
    ([*TWO_STAGES, "loss.phi=infonce"], "loss.triplet_margin=0.3", "set loss.phi=cosine_triplet to have it read"),
    ([*TWO_STAGES, "loss.omega=infonce", "loss.phi=infonce"], "loss.negatives=hardest", "expected all with loss.omega"),
    ([], "loss.label_smoothing=0.1", "0.1; expected 0.0 with loss.name=weighted_infonce; set loss.name=infonce"),
    ([], "schedule.power=2.0", "2.0; expected 1.0 with schedule.name=cosine; it is for polynomial alone"),
    (["schedule.name=constant"], "schedule.end_lr=1e-6", "1e-06; expected 0.0 with schedule.name=constant"),
    ([], "train.loss_scale_init=64.0", "64.0; expected 1024.0 with train.precision=fp32; it is for fp16 alone"),
    (["train.precision=bf16"], "train.loss_scale_window=9", "9; expected 2000 with train.precision=bf16"),
    ([], "sampling.neighbors=8", "8; expected 32 with sampling.hard_negatives=none, which does not read it"),
]
READ = [
    ["model.backbone=tiny", "model.patch_px=8", "model.reference_grid=6", "model.layer_scale_init=1.0"],
    ["model.backbone=vit_tiny_patch16_224", "model.pool=avg"],
    [*TWO_STAGES, "search.recall_n=50", "search.consistency_m=5", "loss.omega_margin=0.1", "loss.triplet_margin=0.3"],
    [*TWO_STAGES, "loss.phi=weighted_infonce", "loss.k=3.0", "loss.negatives=hardest"],
    [*TWO_STAGES, "loss.omega=infonce", "loss.label_smoothing=0.1"],
    [*TWO_STAGES, "loss.omega=infonce", "loss.negatives=hardest"],  # phi's is a cosine loss still
    ["loss.k=3.0", "schedule.name=polynomial", "schedule.power=2.0", "schedule.end_lr=1e-6"],
    ["schedule.end_lr=1e-6", "loss.name=infonce", "loss.label_smoothing=0.1"],
    ["train.precision=fp16", "train.loss_scale_init=64.0", "train.loss_scale_window=9"],
    ["sampling.hard_negatives=both", "sampling.neighbors=8", "sampling.refresh_every_epochs=2"],
]


def stored(choices: list[str], word: str) -> dict:
    """What an earlier version wrote, which took the key."""
    tree, (key, _, value) = config_to_dict(load_config(None, choices)), word.partition("=")
    section, name = key.split(".")
    default = tree[section][name]
    tree[section][name] = type(default)(yaml.safe_load(value))
    return tree


@pytest.mark.parametrize(("choices", "word", "says"), UNREAD)
def test_a_value_that_nothing_reads_is_refused_by_name(choices, word, says):
    load_config(None, choices)
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*choices, word])
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"config key {word.partition('=')[0]} is ")


@pytest.mark.parametrize("words", READ)
def test_the_same_values_are_taken_where_they_are_read(words):
    load_config(None, words)


@pytest.mark.parametrize(("choices", "word", "says"), UNREAD)
def test_what_a_checkpoint_or_a_run_holds_is_taken(tmp_path, choices, word, says):
    tree = stored(choices, word)
    config = config_from_dict(tree)
    assert config_to_dict(config) == tree
    assert override_config(config, ["eval.batch_size=3"]).eval.batch_size == 3
    run = tmp_path / "config.yaml"
    run.write_text(yaml.safe_dump(tree))
    assert config_to_dict(load_config(run, ["train.epochs=9"], of_run=True))["train"]["epochs"] == 9
    with pytest.raises(ConfigError, match=word.partition("=")[0]):  # as an experiment of one's own
        load_config(run, ["train.epochs=9"])
    with pytest.raises(ConfigError, match=word.partition("=")[0]):  # now a person writes it
        load_config(run, [word], of_run=True)


def test_a_section_that_is_written_as_a_whole_is_looked_at(tmp_path):
    run = tmp_path / "config.yaml"
    run.write_text(yaml.safe_dump(config_to_dict(load_config())))
    with pytest.raises(ConfigError, match="schedule.power is 2.0"):
        load_config(run, ["schedule={power: 2.0}"], of_run=True)


def test_weights_of_no_epoch_are_read_and_no_training_has_none(tmp_path):
    tree = config_to_dict(load_config())
    tree["train"]["epochs"] = 0  # earlier versions took it
    assert config_from_dict(tree).train.epochs == 0
    hard = {**tree, "sampling": {"hard_negatives": "both"}}  # from epoch 1 on, which was never reached
    assert config_from_dict(hard).train.epochs == 0
    with pytest.raises(ConfigError, match="train.epochs is -1; expected 0 or more"):
        config_from_dict({**tree, "train": {"epochs": -1}})
    run = tmp_path / "config.yaml"
    run.write_text(yaml.safe_dump(tree))
    for of_run in (True, False):
        with pytest.raises(ConfigError, match="train.epochs is 0; expected a number above 0"):
            load_config(run, of_run=of_run)
    assert load_config(run, ["train.epochs=2"], of_run=True).train.epochs == 2
