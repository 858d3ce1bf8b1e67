"""YAML to Config: strict about keys, types, ranges and choices."""

import json
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mindloc.config import Config, config_from_dict, config_to_dict, dump_yaml, load_config, override_config
from mindloc.config.loader import text_override
from mindloc.config.messages import fields_of
from mindloc.errors import ConfigError
from mindloc.registry import READERS, ReaderEntry
from mindloc.vocabulary import SIDES, ViewSpec


def write(tmp_path, text):
    path = tmp_path / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_are_the_recipe():
    config = load_config()
    assert (config.train.batch_size, config.optimizer.lr, config.optimizer.weight_decay) == (64, 1e-4, 0.01)
    assert config.data.query_size_px == (384, 384)


def test_file_then_overrides_in_order(tmp_path):
    path = write(tmp_path, "train: {epochs: 3, batch_size: 8}\nrun:\n")
    config = load_config(path, ["train.epochs=4", "train.epochs=5", "run.name=x"])
    assert (config.train.epochs, config.train.batch_size, config.run.name) == (5, 8, "x")


@pytest.mark.parametrize(
    ("key", "near"),
    [("train.epoch", "train.epochs"), ("sampling.mod", "sampling.mode"), ("trian.epochs", "train")],
)
def test_unknown_key_names_the_near_miss(key, near):
    with pytest.raises(ConfigError, match=rf"unknown config key .*did you mean {near}\?"):
        load_config(None, [f"{key}=3", "train.batch_size=-1"])  # before the bad value


def test_a_number_in_scientific_notation_is_a_number(tmp_path):
    assert load_config(write(tmp_path, "optimizer: {lr: 1e-3}\n")).optimizer.lr == 0.001  # a string to PyYAML


BAD = [  # override, part of the error message
    ("train.epochs=many", "config key train.epochs is many; expected a whole number above 0"),
    ("train.epochs=true", "train.epochs is true; expected a whole number"),
    ("train.epochs=1.0", "train.epochs is 1.0; expected a whole number"),
    ("train.epochs=0", "train.epochs is 0; expected a whole number above 0"),
    ("train.epochs=-1", "train.epochs is -1; expected a whole number above 0"),
    ("train.epochs.x=1", "train.epochs is {x: 1}; expected a whole number"),
    ("train.grad_cache=1", "train.grad_cache is 1; expected true or false"),
    ("optimizer.lr=fast", "optimizer.lr is fast; expected a number of 0 or more"),
    ("optimizer.lr=true", "optimizer.lr is true; expected a number"),
    ("sampling.mode=unique", "sampling.mode is unique; choose from exclusive, exclusive_padded, masked, random"),
    ("sampling.mode=maskd", "did you mean masked? choose from"),
    ("data.query_size_px=[384]", "is [384]; expected a list of 2 whole numbers above 0"),
    ("data.query_size_px=[1, 2, 3]", "is [1, 2, 3]; expected a list of 2"),
    ("data.query_size_px=384", "expected a list"),
    ("train=7", "config section train is 7; expected key: value lines"),
    ("train.epochs", "not of the form section.key=value; write for example train.epochs=3"),
    ("augment.flip_p=1.5", "expected a number from 0 to 1"),
    ("data.query_size_px=[100, 128]", "multiples of model.patch_px=16, for example [96, 128]"),
    ("data.train_ratio=0", "data.train_ratio is 0; expected a number above 0, at most 1"),
    ("train.accumulate=5", "multiple of train.accumulate=5"),
    ("train.grad_cache=true", "train.grad_cache is true; expected false with train.accumulate=1"),
    ("loss.label_smoothing=0.1", "set loss.name=infonce"),
    ("data.test_map_px=0", "data.test_map_px is 0; expected a whole number above 0 or null, which means data.map_px"),
    ("data.test_m_per_px=0", "or null, which means data.m_per_px"),
    ("optimizer.betas=[0.9, 1.0]", "optimizer.betas is [0.9, 1.0]; expected a list of 2 numbers above 0, below 1"),
    ("optimizer.betas=[0, 0.9]", "optimizer.betas is [0, 0.9]"),
    ("augment.jpeg_quality=[0, 90]", "augment.jpeg_quality is [0, 90]"),
    ("augment.jpeg_quality=[90, 101]", "whole numbers from 1 to 100"),
    ("augment.jpeg_quality=[90, 80]", "the lower first"),
    ("augment.color_jitter=[0.1, -0.1, 0.1, 0.1]", "augment.color_jitter is [0.1, -0.1, 0.1, 0.1]"),
    ("augment.color_jitter=[0.1, 0.1, 0.1, 0.6]", "the last (hue) at most 0.5"),
    ("augment.coarse_dropout_holes=[0, 5]", "augment.coarse_dropout_holes is [0, 5]"),
    ("augment.coarse_dropout_holes=[5, 4]", "the lower first"),
    ("augment.coarse_dropout_side=[0.1, 1.1]", "a list of 2 numbers from 0 to 1"),
    ("augment.coarse_dropout_side=[0.2, 0.1]", "augment.coarse_dropout_side is [0.2, 0.1]"),
    ("augment.cut_border=0.5", "augment.cut_border is 0.5; expected a number from 0 to below 0.5"),
    ("augment.cut_border=-0.1", "augment.cut_border is -0.1"),
    ("head.nodes=6", "head.nodes is 6; expected 4 with head.name=global; set head.name=two_stage to have it read"),
    ("loss.phi=infonce", "loss.phi is infonce; expected cosine_triplet with head.name=global"),
    ("search.recall_n=0", "search.recall_n is 0; expected a whole number above 0"),
    ("loss.beta=1.5", "loss.beta is 1.5; expected a number from 0 to 1"),
    ("eval.recall_at=[]", "eval.recall_at is []; expected a list of one or more whole numbers above 0"),
    ("eval.recall_at=[5, 0]", "eval.recall_at is [5, 0]"),
    ("eval.sdm_at=[]", "eval.sdm_at is []"),
    ("eval.sdm_at=[-1, 3]", "eval.sdm_at is [-1, 3]"),
    ("eval.bootstrap=0", "eval.bootstrap is 0; expected a whole number above 0"),
    ("eval.contact_sheet_queries=-1", "eval.contact_sheet_queries is -1; expected a whole number of 0 or more"),
    ("model.reference_grid=0", "model.reference_grid is 0; expected a whole number above 0"),
    ("model.mean=[123.7, 116.3, 103.5]", "numbers from 0 to 1, for pixels scaled to 0..1"),
    ("loss.k=-1", "loss.k is -1; expected a number of 0 or more"),
    ("optimizer.lr=.inf", "optimizer.lr is inf; expected finite numbers, no inf and no nan"),
    ("optimizer.betas=[0.9, .nan]", "optimizer.betas is [0.9, nan]; expected finite numbers"),
    ("optimizer.lr_scale={backbone: .nan}", "optimizer.lr_scale.backbone is nan; expected finite numbers"),
    ("optimizer.lr_scale={backbone: -1}", "optimizer.lr_scale.backbone is -1; expected a number of 0 or more"),
    ("optimizer.lr_scale=2", "optimizer.lr_scale is 2; expected lines of key: a number of 0 or more"),
    ("train.loss_scale_window=0", "train.loss_scale_window is 0; expected a whole number above 0"),
    ("schedule.power=0", "schedule.power is 0; expected a number above 0"),
    (
        "run.device_ids=[]",
        "run.device_ids is []; expected a list of one or more whole numbers of 0 or more, all different",
    ),
    ("run.device_ids=[1, 1]", "run.device_ids is [1, 1]; expected"),
    ("run.device_ids=[-1]", "run.device_ids is [-1]; expected"),
    ("optimizer.freeze=[off]", "optimizer.freeze is [false]; expected a list of text; YAML reads on, off"),
    ('run.operator_fusion="a\\nb"', "run.operator_fusion is 'a\\nb'; choose from"),
]


@pytest.mark.parametrize(("override", "says"), BAD)
def test_a_bad_value_is_one_line_that_names_the_key(override, says):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_not_unicode_is_one_line():
    with pytest.raises(ConfigError, match="config section data has a key that is not text; expected key: value lines"):
        config_from_dict({"data": {"\udc80": 1}})


def test_a_tree_that_is_not_a_config_is_an_error():
    for tree in (7, [1], {1: 2}, {"train": {1: 2}}):
        with pytest.raises(ConfigError):
            config_from_dict(tree)


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
def test_values_at_the_limits_are_accepted(override):
    load_config(None, [override])


@pytest.mark.parametrize("text", ["train: [unclosed", "- a\n- b\n", "\tx: 1"])
def test_a_file_that_is_not_a_config_is_an_error(tmp_path, text):
    with pytest.raises(ConfigError, match="experiment.yaml"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["flight #2", "7", "2026-11-30", "off", "no", "[a]", "{a}", "a: b", "*x", "1e3", "it's", "东方 d\\e", " x "]
)
def test_the_value_of_a_text_setting_is_taken_literally(text):
    assert load_config(None, [f"data.root={text}"]).data.root == text
    assert load_config(None, [f"run.name={text}"]).run.name == text


@pytest.mark.parametrize("text", ["null", "~", "", "'quoted'", '"', "flight #2", "a\nb"])
def test_an_override_of_text_is_read_back(text):
    assert load_config(None, [text_override("data.root", text)]).data.root == text


def test_null_and_quotes_of_an_override_are_read_as_in_yaml():
    assert load_config(None, ["run.name=null"]).run.name is None
    assert load_config(None, ["run.name='null'", 'data.root="a b"']).value("data.root") == "a b"
    assert load_config(None, ["run.name='null'"]).run.name == "null"
    assert load_config(None, ["optimizer.freeze=[1]"]).optimizer.freeze == ("1",)


@pytest.mark.parametrize(
    ("yaml", "says"),
    [
        ("model: {pretrained: no}", "or set model.pretrained=null to switch it off"),
        (
            "run: {name: on}",
            "run.name is true; expected text or null; YAML reads on, off, yes and no as true",
        ),
        ("data: {root: no}", "data.root is false; expected text; YAML reads on, off, yes and no as true and false"),
        ("data: {root: [a]}", "data.root is [a]; expected text"),
        ("a: &a [x]\ndata: *a", "an alias (*name); write the value out"),
        ("data: {root: a, root: b}", "root appears twice"),
        ("[" * 5_000, "can't be read as YAML: "),
        ("data: {root: 2026-99-99}", "can't be read as YAML: month must be in 1..12; correct it there"),
        ("data: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (" " * 2**20 + "\n", "has 1048577 bytes; expected at most 1048576; give a YAML file"),
    ],
)
def test_a_file_that_is_not_a_config_is_one_line(tmp_path, yaml, says):
    (tmp_path / "c.yaml").write_text(yaml)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "c.yaml")
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_shipped_experiment_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("world_tiny").run.name == "world_tiny"
    with pytest.raises(ConfigError, match="did you mean world_tiny"):
        load_config("world_tinny")
    with pytest.raises(ConfigError, match="configs/world_tiny.yaml is missing; .* its name: --config world_tiny"):
        load_config("configs/world_tiny.yaml")
    Path("world_tiny").write_text("run: {name: mine}")  # a file of that name takes precedence
    assert load_config("world_tiny").run.name == "mine"


def test_a_missing_file_names_the_shipped_configs(tmp_path):
    with pytest.raises(
        ConfigError, match="none.yaml is neither a file nor a shipped config; shipped are gta_uav_cross, "
    ):
        load_config(tmp_path / "none.yaml")


def test_every_key_has_a_default():
    assert config_to_dict(Config()) == config_to_dict(load_config())


def test_a_config_is_changed_by_a_checked_copy():
    config = load_config()
    with pytest.raises(Exception, match="frozen"):
        config.train.epochs = 3
    with pytest.raises(Exception, match="frozen"):
        config.train = config.train
    changed = config.with_values({"train.epochs": 3, "model.mean": (0, 0, 0), "optimizer.lr_scale": {"head": 2}})
    assert (changed.train.epochs, changed.model.mean) == (3, (0.0, 0.0, 0.0))
    assert config == Config() != changed
    assert changed.with_values({"train.epochs": 5, "model": {}, "optimizer.lr_scale": {}}) == config
    with pytest.raises(ConfigError, match=r"train.epochs is 0; expected"):
        config.with_values({"train.epochs": 0})
    with pytest.raises(ConfigError, match="did you mean train.epochs"):
        config.with_values({"train.epoch": 1})
    with pytest.raises(
        ConfigError, match="train.epochs.x can't be set: epochs is a value, not a section; write section.key"
    ):
        config.with_values({"train.epochs.x": 1})


def test_a_whole_section_and_one_of_its_keys_are_overridden_in_order():
    config = override_config(Config(), ["eval.bootstrap=7", "eval={batch_size: 3}", "eval.bootstrap=8"])
    assert (config.eval.bootstrap, config.eval.batch_size) == (8, 3)


def test_a_side_shows_the_view_of_the_reader():
    config = load_config(None, ["data.query_size_px=[96, 48]", "augment.rotate_query=false", "augment.cut_border=0.1"])
    half = (0.5, 0.5, 0.5)
    assert config.view("query") == ViewSpec("drone", (96, 48), 0.1, False, half, half)
    assert config.view("reference") == ViewSpec("satellite", (384, 384), 0.0, True, half, half)


def test_a_side_is_found_by_its_view(monkeypatch):
    config = Config()
    assert [config.side_of(view) for view in ("drone", "satellite")] == [*SIDES]
    with pytest.raises(ConfigError, match="ground is not among the drone and satellite images .* --view drone or sat"):
        config.side_of("ground")
    monkeypatch.setitem(READERS, "gta_uav", ReaderEntry(views=("ground", "ground")))
    assert config.side_of("ground") == "query"


SPECIAL = {
    **dict.fromkeys(
        ("data.query_size_px", "data.reference_size_px"), st.sampled_from([[32, 64], [96, 96], [384, 384]])
    ),
    "augment.color_jitter": st.lists(st.floats(0, 0.5), min_size=4, max_size=4),
    "run.device_ids": st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
}


def values_of(field: dict) -> st.SearchStrategy:
    """Values that a field accepts by its JSON schema."""
    if "enum" in field:
        return st.sampled_from(field["enum"])
    if "anyOf" in field:
        return st.one_of(*map(values_of, field["anyOf"]))
    least, most = (
        field.get("minimum", field.get("exclusiveMinimum")),
        field.get("maximum", field.get("exclusiveMaximum")),
    )
    if field["type"] == "integer":
        return st.integers(least + ("exclusiveMinimum" in field), 2**40 if most is None else most)
    if field["type"] == "number":
        edges = {"exclude_min": "exclusiveMinimum" in field, "exclude_max": "exclusiveMaximum" in field}
        return st.floats(least, most, allow_nan=False, allow_infinity=False, **edges)
    if field["type"] == "array":
        items, count = field.get("prefixItems"), field.get("minItems", 0)
        of_all = values_of(items[0] if items else field["items"])
        lists = st.lists(of_all, min_size=count, max_size=len(items) if items else 4)
        return lists.map(sorted) if field.get("says") == "the lower first" else lists
    if field["type"] == "object":
        return st.dictionaries(st.text(), values_of(field["additionalProperties"]), max_size=3)
    return {"string": st.text(), "boolean": st.booleans(), "null": st.none()}[field["type"]]


FIELDS = {
    f"{section}.{key}": field for section in Config.model_fields for key, field in fields_of(Config, section).items()
}


@st.composite
def trees(draw):
    """Sections with some keys set to values that the schema accepts."""
    tree = {}
    for key in draw(st.lists(st.sampled_from(list(FIELDS)), max_size=6, unique=True)):
        section, name = key.split(".")
        tree.setdefault(section, {})[name] = draw(SPECIAL[key] if key in SPECIAL else values_of(FIELDS[key]))
    return tree


@example({"data": {"root": "a\x85b"}})
@example({"data": {"root": "\x85"}})
@example({"run": {"name": "a\u2028b\r"}})
@given(trees())
def test_a_config_comes_back_the_same_from_a_dict_json_and_yaml(tmp_path_factory, tree):
    try:
        config = config_from_dict(tree)
    except ConfigError:  # values that contradict each other
        assume(False)
    stored = config_to_dict(config)
    assert all(stored[section][key] == value for section, keys in tree.items() for key, value in keys.items())
    assert config_from_dict(stored) == config_from_dict(json.loads(json.dumps(stored))) == config
    assert load_config(write(tmp_path_factory.getbasetemp(), dump_yaml(config)), of_run=True) == config
