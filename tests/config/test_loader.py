"""YAML to Config: strict about keys, types and choices."""

import pytest

from mindloc.config import Config, config_from_dict, config_to_dict, dump_yaml, load_config
from mindloc.errors import ConfigError


def write(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_recipe():
    config = load_config()
    assert (config.train.batch_size, config.optimizer.lr, config.optimizer.weight_decay) == (64, 1e-4, 0.01)
    assert config.data.drone_size_px == (384, 384)


def test_file_then_overrides_in_order(tmp_path):
    path = write(tmp_path, "train: {epochs: 3, batch_size: 8}\n")
    config = load_config(path, ["train.epochs=4", "train.epochs=5"])
    assert (config.train.epochs, config.train.batch_size) == (5, 8)


@pytest.mark.parametrize(
    ("key", "near"),
    [("train.epoch", "train.epochs"), ("sampling.mod", "sampling.mode"), ("trian.epochs", "train")],
)
def test_unknown_key_names_the_near_miss(key, near):
    with pytest.raises(ConfigError, match=f"unknown config key .*did you mean {near}"):
        load_config(None, [f"{key}=3"])


def test_a_number_in_scientific_notation_is_a_number(tmp_path):
    assert load_config(write(tmp_path, "optimizer: {lr: 1e-3}\n")).optimizer.lr == 0.001  # a string to PyYAML


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.epochs=many", "train.epochs is 'many', expected int"),
        ("train.epochs=true", "expected int"),
        ("optimizer.lr=fast", "expected a number"),
        ("sampling.mode=unique", "choose from exclusive, exclusive_padded, masked, random"),
        ("data.drone_size_px=[384]", "has 1 values, expected 2"),
        ("data.drone_size_px=384", "expected a list"),
        ("train=7", "section train is 7"),
        ("train.epochs", "not of the form"),
        ("augment.flip_p=1.5", "expected a number from 0 to 1"),
        ("data.drone_size_px=[100, 128]", "multiples of model.patch_px=16, for example [96, 128]"),
        ("data.train_ratio=0", "data.train_ratio is 0.0"),
        ("train.accumulate=5", "multiple of train.accumulate=5"),
        ("train.grad_cache=true", "train.grad_cache is True; expected false with train.accumulate=1"),
        ("loss.label_smoothing=0.1", "set loss.name=infonce"),
        ("data.test_map_px=0", "data.test_map_px is 0; expected a number above 0, or null for data.map_px"),
        ("data.test_m_per_px=0", "or null for data.m_per_px"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas is [0.9, 1.0]; expected numbers above 0 and below 1"),
        ("optimizer.betas=[0, 0.9]", "optimizer.betas is [0.0, 0.9]"),
        ("augment.jpeg_quality=[0, 90]", "augment.jpeg_quality is [0, 90]"),
        ("augment.jpeg_quality=[90, 101]", "from 1 to 100"),
        ("augment.jpeg_quality=[90, 80]", "the lower first"),
        ("augment.color_jitter=[0.1, -0.1, 0.1, 0.1]", "augment.color_jitter is [0.1, -0.1, 0.1, 0.1]"),
        ("augment.color_jitter=[0.1, 0.1, 0.1, 0.6]", "the last (hue) at most 0.5"),
        ("augment.coarse_dropout_holes=[0, 5]", "augment.coarse_dropout_holes is [0, 5]"),
        ("augment.coarse_dropout_holes=[5, 4]", "the lower first"),
        ("augment.coarse_dropout_side=[0.1, 1.1]", "two shares from 0 to 1"),
        ("augment.coarse_dropout_side=[0.2, 0.1]", "augment.coarse_dropout_side is [0.2, 0.1]"),
        ("augment.cut_border=0.5", "augment.cut_border is 0.5; expected a share from 0 to below 0.5"),
        ("augment.cut_border=-0.1", "augment.cut_border is -0.1"),
        ("head.nodes=6", "head.nodes is 6; expected 4 with head.name=global; it is for two_stage alone"),
        ("loss.phi=infonce", "loss.phi is infonce; expected cosine_triplet with head.name=global"),
        ("search.recall_n=0", "search.recall_n is 0; expected a number above 0"),
        ("loss.beta=1.5", "loss.beta is 1.5; expected a number from 0 to 1"),
        ("eval.recall_at=[]", "eval.recall_at is []; expected one or more numbers above 0"),
        ("eval.recall_at=[5, 0]", "eval.recall_at is [5, 0]"),
        ("eval.sdm_at=[]", "eval.sdm_at is []"),
        ("eval.sdm_at=[-1, 3]", "eval.sdm_at is [-1, 3]"),
        ("eval.bootstrap=0", "eval.bootstrap is 0; expected a number above 0"),
        ("eval.contact_sheet_queries=-1", "eval.contact_sheet_queries is -1; expected 0 or more"),
        ("model.reference_grid=0", "model.reference_grid is 0; expected a number above 0"),
        ("model.mean=[123.7, 116.3, 103.5]", "numbers from 0 to 1, of pixels scaled to that"),
        ("loss.k=-1", "loss.k is -1.0; expected 0 or more"),
        ("optimizer.lr=.inf", "optimizer.lr is inf; expected finite numbers, no inf and no nan"),
        ("optimizer.betas=[0.9, .nan]", "optimizer.betas is (0.9, nan); expected finite numbers"),
        ("optimizer.lr_scale={backbone: .nan}", "optimizer.lr_scale is {'backbone': nan}; expected finite numbers"),
        ("optimizer.lr_scale={backbone: -1}", "optimizer.lr_scale.backbone is -1.0; expected 0 or more"),
        ("train.loss_scale_window=0", "train.loss_scale_window is 0; expected a number above 0"),
        ("schedule.power=0", "schedule.power is 0.0; expected a number above 0"),
        ("run.compiler_cache=off", "compiler_cache is False, expected text; YAML reads on, off, yes and no as true"),
        ("run.compiler_cache=false", "in quotes, or set run.compiler_cache=none to switch it off"),
        ("run.compiler_cache=''", "run.compiler_cache is ''; expected a folder, auto, or none to keep no graphs"),
        ("run.compiler_cache=' '", "run.compiler_cache is ' '; expected a folder"),
        ("model.pretrained=no", "or set model.pretrained=null to switch it off"),
        ("run.name=on", "run.name is True, expected text"),
        ("data.root=no", "put the word in quotes"),
        ("optimizer.freeze=[off]", "optimizer.freeze[0] is False, expected text"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_key(override, says):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "data.test_map_px=null",
        "augment.jpeg_quality=[1, 100]",
        "augment.color_jitter=[0, 0, 2, 0.5]",
        "augment.coarse_dropout_holes=[1, 1]",
        "augment.coarse_dropout_side=[0, 1]",
        "augment.cut_border=0.49",
        "eval.contact_sheet_queries=0",
        "eval.recall_at=[5, 10]",
        "loss.k=0",
        "model.mean=[0, 0.5, 1]",
        "optimizer.lr_scale={backbone: 0}",
    ],
)
def test_values_at_the_limits_are_taken(override):
    load_config(None, [override])


@pytest.mark.parametrize("text", ["train: [unclosed", "- a\n- b\n", "\tx: 1"])
def test_a_file_that_is_no_config_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="experiment.yaml"):
        load_config(write(tmp_path, text))


def test_quoted_words_and_numbers_are_text():
    words = ["run.name='off'", 'run.compiler_cache="on"', "data.root=7"]
    config = load_config(None, words)
    assert (config.run.name, config.run.compiler_cache, config.data.root) == ("off", "on", "7")


def test_missing_file_says_where_the_shipped_ones_are(tmp_path):
    with pytest.raises(ConfigError, match="configs/"):
        load_config(tmp_path / "none.yaml")


def test_resolved_config_comes_back_the_same(tmp_path):
    config = load_config(None, ["optimizer.lr_scale={backbone.blocks.0: 0.5}", "data.test_root=elsewhere"])
    assert load_config(write(tmp_path, dump_yaml(config))) == config
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("reads", ["a file", "a checkpoint", "an override"])
def test_a_key_of_an_earlier_version_is_read_under_its_present_name(tmp_path, reads):
    if reads == "a file":
        config = load_config(write(tmp_path, "run: {device_id: 3, name: x}"))
        assert config.run.name == "x"
    elif reads == "a checkpoint":
        stored = config_to_dict(load_config())
        stored["run"] = {"device_id": 3, "work_dir": "w"}
        config = config_from_dict(stored)
    else:
        config = load_config(write(tmp_path, "run: {device_ids: [1, 2]}"), ["run.device_id=3"])
    assert config.run.device_ids == (3,)


def test_every_key_has_a_default():
    assert config_to_dict(Config()) == config_to_dict(load_config())


def test_two_files_to_begin_from_are_one_too_many():
    both = ["model.pretrained=timm.safetensors", "train.checkpoint_start={}"]
    with pytest.raises(ConfigError, match=r"model.pretrained is timm.safetensors; set one of the two to null"):
        load_config(None, [text.format("own.safetensors") for text in both])
    load_config(None, [text.format("timm.safetensors") for text in both])  # as a run that began from it records it


TWO_STAGES = ["head.name=two_stage", "data.drone_size_px=[96, 96]", "data.satellite_size_px=[96, 96]"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("head.node=5", "unknown config key head.node; did you mean head.nodes?"),
        ("head.nodes=0", "head.nodes is 0; expected a number above 0"),
        ("search.consistency_m=101", "search.consistency_m is 101; expected at most search.recall_n=100"),
        (
            "head.omega_grid=4",
            "head.omega_grid is 4; expected a divisor of both sides of the [6, 6] map of data.drone_size_px",
        ),
        ("head.non_local_pool=5", "head.non_local_pool is 5; expected a divisor"),
        ("data.drone_size_px=[96, 192]", "head.omega_grid is 0; expected above 0 where data.drone_size_px and"),
        (
            "loss.name=infonce",
            "loss.name is infonce; expected weighted_infonce with head.name=two_stage; it is for global",
        ),
        ("loss.omega_margin=-1.5", "loss.omega_margin is -1.5; expected a cosine, -1 to 1"),
        ("loss.triplet_margin=-0.1", "loss.triplet_margin is -0.1; expected 0 or more"),
        ("loss.label_smoothing=0.1", "set loss.omega=infonce"),
    ],
)
def test_a_bad_value_of_two_stages_names_the_key(override, says):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [*TWO_STAGES, override])
    assert says in str(caught.value)


def test_many_nodes_can_be_trained_and_not_matched():
    load_config(None, [*TWO_STAGES, "head.nodes=9"])
    with pytest.raises(ConfigError, match="0 with head.nodes=9: nodes are matched in every order, which 8 of them"):
        load_config(None, [*TWO_STAGES, "head.nodes=9", "search.consistency_m=5"])


def test_convolutional_backbones_have_a_stride_of_their_own():
    with pytest.raises(ConfigError, match="multiples of 16, the stride, for example"):
        load_config(None, ["model.backbone=resnet50", "model.patch_px=8", "data.drone_size_px=[104, 96]"])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["model.patch_px=8"],
            "model.patch_px is 8; expected 16 with model.backbone=vit_small_patch32_224; it is for the",
        ),
        (
            ["model.reference_grid=6"],
            "model.reference_grid is 6; expected 16 with model.backbone=vit_small_patch32_224",
        ),
        (["model.layer_scale_init=1.0"], "model.layer_scale_init is 1.0; expected 0.1 with"),
        (["data.drone_size_px=[240, 256]"], "multiples of 32, the stride, for example [256, 256]"),
        (["model.backbone=vit_small_patch17_224"], "vit_small_patch16_224"),
    ],
)
def test_a_plain_vit_has_its_patch_in_its_name(overrides, says):
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["model.backbone=vit_small_patch32_224", *overrides])
    assert says in str(caught.value)


def test_what_a_plain_vit_alone_has_is_refused_elsewhere():
    load_config(None, ["model.backbone=vit_tiny_patch16_224", "model.pool=avg", "data.drone_size_px=[96, 48]"])
    for backbone in ("base", "resnet50"):
        with pytest.raises(ConfigError, match=f"pool is avg; expected token with model.backbone={backbone}; it is for"):
            load_config(None, [f"model.backbone={backbone}", "model.pool=avg"])


def test_the_map_of_a_plain_vit_has_its_own_stride():
    plain = ["model.backbone=vit_small_patch32_384", "head.name=two_stage", "head.omega_grid=12"]
    load_config(None, plain)  # 384 / 32
    with pytest.raises(ConfigError, match=r"divisor of both sides of the \[8, 12\] map of data.drone_size_px"):
        load_config(None, [*plain, "data.drone_size_px=[256, 384]"])
