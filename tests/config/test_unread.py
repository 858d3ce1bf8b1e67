"""A value that no part reads is an error in a written config, and accepted from a run or a checkpoint."""

from pathlib import Path

import pytest
import yaml

from mindloc.config import (
    Config,
    config_from_dict,
    config_to_dict,
    load_config,
    override_after_training,
    override_config,
)
from mindloc.config.loader import readers_of_keys
from mindloc.errors import ConfigError
from mindloc.registry import BACKBONES, ENGINES, HEADS, LOSSES, READERS, BackboneEntry, HeadEntry, LossEntry

SOURCE = Path(__file__).parents[2] / "src"

TWO_STAGES = ["head.name=two_stage", "data.query_size_px=[96, 96]", "data.reference_size_px=[96, 96]"]
ROPE = "set model.backbone=tiny, compact, small, medium or base to have it read"
PLAIN = "set model.backbone=vit_tiny_patch16_224 or another of 16 to have it read"
UNREAD = [  # (choices, a key that they leave unread, part of the message)
    (["model.backbone=resnet50"], "model.patch_px=8", f"8; expected 16 with model.backbone=resnet50; {ROPE}"),
    (["model.backbone=resnet50"], "model.reference_grid=6", "6; expected 16 with model.backbone=resnet50"),
    (["model.backbone=vgg16"], "model.layer_scale_init=1.0", "1.0; expected 0.1 with model.backbone=vgg16"),
    (["model.backbone=vgg16"], "model.pool=avg", f"avg; expected token with model.backbone=vgg16; {PLAIN}"),
    (["model.backbone=vit_tiny_patch16_224"], "model.reference_grid=6", ROPE),
    ([], "search.recall_n=50", "50; expected 100 with head.name=global; set head.name=two_stage to have it read"),
    ([], "search.consistency_m=5", "5; expected 0 with head.name=global; set head.name=two_stage"),
    ([], "head.centroids=true", "true; expected false with head.name=global; set head.name=two_stage"),
    ([], "loss.negatives=hardest", "with loss.name=weighted_infonce; set loss.name=cosine_embedding or cosine_triplet"),
    (["loss.name=infonce"], "loss.k=3.0", "3.0; expected 5.0 with loss.name=infonce; set loss.name=weighted_infonce"),
    (
        TWO_STAGES,
        "loss.k=3.0",
        "5.0 with loss.omega=cosine_embedding and loss.phi=cosine_triplet; set loss.omega=weighted_infonce",
    ),
    (
        [*TWO_STAGES, "loss.omega=infonce"],
        "loss.embedding_margin=0.1",
        "0.0 with loss.omega=infonce and loss.phi=cosine",
    ),
    ([*TWO_STAGES, "loss.phi=infonce"], "loss.triplet_margin=0.3", "set loss.phi=cosine_triplet to have it read"),
    ([*TWO_STAGES, "loss.omega=infonce", "loss.phi=infonce"], "loss.negatives=hardest", "expected all with loss.omega"),
    ([], "loss.label_smoothing=0.1", "0.1; expected 0.0 with loss.name=weighted_infonce; set loss.name=infonce"),
    (["data.reader=visloc"], "data.map_px=100", "24576 with data.reader=visloc; set data.reader=gta_uav to have it"),
    ([], "schedule.power=2.0", "2.0; expected 1.0 with schedule.name=cosine; set schedule.name=polynomial to have it"),
    (["schedule.name=constant"], "schedule.end_lr=1e-6", "1e-06; expected 0.0 with schedule.name=constant"),
    ([], "train.loss_scale_init=64.0", "64.0; expected 1024.0 with train.precision=fp32; set train.precision=fp16"),
    (["train.precision=bf16"], "train.loss_scale_window=9", "9; expected 2000 with train.precision=bf16"),
    (
        [],
        "sampling.neighbors=8",
        "8; expected 32 with sampling.hard_negatives=none; set sampling.hard_negatives=map, d",
    ),
]
READ = [
    ["model.backbone=tiny", "model.patch_px=8", "model.reference_grid=6", "model.layer_scale_init=1.0"],
    ["model.backbone=vit_tiny_patch16_224", "model.pool=avg"],
    [
        *TWO_STAGES,
        "search.recall_n=50",
        "search.consistency_m=5",
        "loss.embedding_margin=0.1",
        "loss.triplet_margin=0.3",
    ],
    [*TWO_STAGES, "loss.phi=weighted_infonce", "loss.k=3.0", "loss.negatives=hardest"],
    [*TWO_STAGES, "loss.omega=infonce", "loss.label_smoothing=0.1"],
    [*TWO_STAGES, "loss.omega=infonce", "loss.negatives=hardest"],  # phi's loss is still a cosine loss
    [*TWO_STAGES, "loss.omega=cosine_triplet", "loss.phi=infonce", "loss.triplet_margin=0.3"],
    ["loss.name=cosine_triplet", "loss.triplet_margin=0.3", "loss.negatives=hardest"],
    ["loss.k=3.0", "schedule.name=polynomial", "schedule.power=2.0", "schedule.end_lr=1e-6"],
    ["schedule.end_lr=1e-6", "loss.name=infonce", "loss.label_smoothing=0.1"],
    ["train.precision=fp16", "train.loss_scale_init=64.0", "train.loss_scale_window=9"],
    ["sampling.hard_negatives=both", "sampling.neighbors=8", "sampling.refresh_every_epochs=2"],
    ["data.map_px=4096", "data.test_m_per_px=0.5"],
]


@pytest.mark.parametrize(("choices", "word", "says"), UNREAD)
def test_an_unread_value_is_an_error_that_names_the_key(choices, word, says):
    load_config(None, choices)
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*choices, word])
    assert says in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"config key {word.partition('=')[0]} is ")


@pytest.mark.parametrize("words", READ)
def test_the_same_values_are_accepted_if_they_are_read(words):
    load_config(None, words)


def test_unread_values_of_a_checkpoint_or_run_are_accepted_unless_an_override_names_them(tmp_path):
    run = tmp_path / "config.yaml"
    for choices, word, _ in UNREAD:
        key, _, value = word.partition("=")
        config = load_config(None, choices).with_values({key: yaml.safe_load(value)})
        assert config_from_dict(config_to_dict(config)) == config
        assert override_config(config, ["eval.batch_size=3"]).eval.batch_size == 3
        run.write_text(yaml.safe_dump(config_to_dict(config)))
        assert load_config(run, ["train.epochs=9"], of_run=True) == config.with_values({"train.epochs": 9})
        with pytest.raises(ConfigError, match=key):  # as the config of a new experiment
            load_config(run, ["train.epochs=9"])
        with pytest.raises(ConfigError, match=key):  # now an override names it
            load_config(run, [word], of_run=True)
        with pytest.raises(ConfigError, match=key):
            override_config(load_config(None, choices), [word])


def test_a_key_that_the_caller_reads_is_not_checked():
    assert override_config(Config(), ["search.recall_n=9"], read=["search.recall_n"]).search.recall_n == 9


def test_after_training_only_some_sections_may_change():
    words = ["data.root=x", "eval={batch_size: 3}", "run.name=y"]
    changed = override_after_training(Config(), words)
    assert changed == Config().with_values({"data.root": "x", "eval.batch_size": 3, "run.name": "y"})
    says = "model.backbone can't be set here: so it is; only keys of data, eval can"
    with pytest.raises(ConfigError, match=says):
        override_after_training(Config(), ["data.root=x", "model.backbone=tiny"], ("data", "eval"), "so it is")


def test_the_keys_of_an_overridden_section_are_checked(tmp_path):
    run = tmp_path / "config.yaml"
    run.write_text(yaml.safe_dump(config_to_dict(load_config())))
    with pytest.raises(ConfigError, match="schedule.power is 2.0"):
        load_config(run, ["schedule={power: 2.0}"], of_run=True)


def test_tables_and_schema_name_keys_choices_and_values_that_exist():
    readers = readers_of_keys()
    named = {key for table in (BACKBONES, HEADS, LOSSES, READERS) for entry in table.values() for key in entry.reads}
    assert named <= readers.keys()  # a key that does not exist would be ignored
    for key, choices in readers.items():
        for choice, values in choices.items():
            for value in values:
                Config().with_values({choice: value})
            assert values, (key, choice)
    assert {loss for head in HEADS.values() for loss in head.losses.values()} == {"loss.name", "loss.omega", "loss.phi"}


def test_every_builder_exists():
    absent = []
    for table in (BACKBONES, HEADS, LOSSES, READERS, ENGINES):
        for entry in table.values():
            for name in filter(None, (entry.builder, getattr(entry, "ground", None))):
                module, _, function = name.partition(":")
                code = SOURCE.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
                absent += [] if f"\ndef {function}(" in code else [name]
    assert absent == []


def test_a_new_part_is_one_entry(monkeypatch):
    monkeypatch.setitem(BACKBONES, "dino", BackboneEntry(builder="json:loads", stride=14, reads=("model.pool",)))
    monkeypatch.setitem(HEADS, "netvlad", HeadEntry(losses={"global": "loss.phi"}, reads=("head.nodes", "loss.phi")))
    monkeypatch.setitem(LOSSES, "margin", LossEntry(reads=("loss.triplet_margin",)))
    words = ["model.backbone=dino", "head.name=netvlad", "loss.phi=margin", "head.nodes=64"]
    words += ["data.query_size_px=[28, 14]", "data.reference_size_px=[14, 14]"]
    config = load_config(None, [*words, "model.pool=avg", "loss.triplet_margin=1"])
    assert config.model.stride_px == 14
    assert BACKBONES[config.model.backbone].build("[1]") == [1]
    assert HEADS[config.head.name].build(config.head, 8) is None
    for word in ("loss.k=1", "head.area=count", "search.recall_n=5", "model.patch_px=8", "loss.omega=infonce"):
        with pytest.raises(ConfigError, match=word.partition("=")[0]):
            load_config(None, [*words, word])
