"""Values that contradict each other: the error names the keys and the way out."""

import pytest

from mindloc.config import load_config
from mindloc.errors import ConfigError


def refusal(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_two_files_of_initial_weights_contradict():
    both = ["model.pretrained=timm.safetensors", "train.checkpoint_start={}"]
    with pytest.raises(ConfigError, match=r"model.pretrained is timm.safetensors; set one of the two to null"):
        load_config(None, [text.format("own.safetensors") for text in both])
    load_config(None, [text.format("timm.safetensors") for text in both])  # as recorded in a run that started from it


TWO_STAGES = ["head.name=two_stage", "data.query_size_px=[96, 96]", "data.reference_size_px=[96, 96]"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("head.node=5", "unknown config key head.node; did you mean head.nodes?"),
        ("head.nodes=0", "head.nodes is 0; expected a whole number above 0"),
        ("search.consistency_m=101", "search.consistency_m is 101; expected at most search.recall_n=100"),
        (
            "head.omega_grid=4",
            "head.omega_grid is 4; expected a divisor of both sides of the [6, 6] map of data.query_size_px",
        ),
        ("head.non_local_pool=5", "head.non_local_pool is 5; expected a divisor"),
        ("data.query_size_px=[96, 192]", "head.omega_grid is 0; expected above 0 if data.query_size_px and"),
        ("loss.name=infonce", "loss.name is infonce; expected weighted_infonce with head.name=two_stage"),
        ("loss.embedding_margin=-1.5", "loss.embedding_margin is -1.5; expected a number from -1 to 1, a cosine"),
        ("loss.triplet_margin=-0.1", "loss.triplet_margin is -0.1; expected a number of 0 or more"),
        ("loss.label_smoothing=0.1", "set loss.omega=infonce"),
    ],
)
def test_a_bad_value_of_a_two_stage_head_is_named(override, says):
    assert says in refusal([*TWO_STAGES, override])


def test_convolutional_backbones_have_a_fixed_stride():
    says = refusal(["model.backbone=resnet50", "model.patch_px=8", "data.query_size_px=[104, 96]"])
    assert "multiples of 16, the stride, for example" in says


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["model.patch_px=8"], "model.patch_px is 8; expected 16 with model.backbone=vit_small_patch32_224; set"),
        (
            ["model.reference_grid=6"],
            "model.reference_grid is 6; expected 16 with model.backbone=vit_small_patch32_224",
        ),
        (["model.layer_scale_init=1.0"], "model.layer_scale_init is 1.0; expected 0.1 with"),
        (["data.query_size_px=[240, 256]"], "multiples of 32, the stride, for example [256, 256]"),
        (["model.backbone=vit_small_patch17_224"], "did you mean vit_small_patch16_224? choose from tiny, compact,"),
    ],
)
def test_a_plain_vit_has_its_patch_in_its_name(overrides, says):
    assert says in refusal(["model.backbone=vit_small_patch32_224", *overrides])


def test_settings_of_the_plain_vit_are_an_error_with_other_backbones():
    load_config(None, ["model.backbone=vit_tiny_patch16_224", "model.pool=avg", "data.query_size_px=[96, 48]"])
    for backbone in ("base", "resnet50"):
        says = refusal([f"model.backbone={backbone}", "model.pool=avg"])
        assert f"pool is avg; expected token with model.backbone={backbone}; set model.backbone=vit_" in says


def test_the_feature_map_of_a_plain_vit_has_the_stride_of_its_patch():
    plain = ["model.backbone=vit_small_patch32_384", "head.name=two_stage", "head.omega_grid=12"]
    load_config(None, plain)  # 384 / 32
    says = refusal([*plain, "data.query_size_px=[256, 384]"])
    assert "divisor of both sides of the [8, 12] map of data.query_size_px" in says


def test_every_source_of_hard_negatives_works_with_every_mode():
    for source in ("map", "descriptors", "both", "map_then_descriptors"):
        for mode in ("exclusive", "exclusive_padded", "masked", "random"):
            config = load_config(None, [f"sampling.mode={mode}", f"sampling.hard_negatives={source}"])
            assert (config.sampling.hard_negatives, config.sampling.mode) == (source, mode)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["hard_from_epoch=2"], "hard_from_epoch is 2; expected 1 with sampling.hard_negatives=none"),
        (["neighbors=8"], "neighbors is 8; expected 32 with sampling.hard_negatives=none"),
        (["mined_per_pair=2"], "mined_per_pair is 2; expected 4 with sampling.hard_negatives=none"),
        (["hard_share=0.3"], "hard_share is 0.3; expected 0.5 with sampling.hard_negatives=none"),
        (["refresh_every_epochs=2"], "refresh_every_epochs is 2; expected 1 with sampling.hard_negatives=none"),
        (["hard_negatives=map", "refresh_every_epochs=2"], "expected 1 with sampling.hard_negatives=map"),
        (["hard_negatives=map", "hard_share=1.0"], "hard_share is 1.0; expected a number above 0, below 1"),
        (["hard_negatives=map", "hard_share=0.0"], "a number above 0, below 1"),
        (["hard_negatives=map", "hard_share=0.001"], "a fraction of train.batch_size=64 that is at least one pair"),
        (
            ["hard_negatives=map", "mined_per_pair=9", "neighbors=8"],
            "mined_per_pair is 9; expected at most sampling.neighbors=8",
        ),
        (["hard_negatives=map", "neighbors=0"], "neighbors is 0; expected a whole number above 0"),
        (["hard_negatives=both", "hard_from_epoch=5"], "hard_from_epoch is 5; expected below train.epochs=5"),
        (["hard_negatives=both", "hard_from_epoch=-1"], "hard_from_epoch is -1; expected a whole number of 0 or more"),
        (["hard_negatives=map_then_descriptors", "hard_from_epoch=0"], "expected 1 or more with map_then_descriptors"),
        (
            ["hard_negatives=both", "refresh_every_epochs=0"],
            "refresh_every_epochs is 0; expected a whole number above 0",
        ),
        (["hard_negatives=nearest"], "choose from none, map, descriptors, both, map_then_descriptors"),
    ],
)
def test_contradicting_or_unread_settings_of_hard_negatives_are_errors(overrides, says):
    assert says in refusal([f"sampling.{word}" for word in overrides])


def test_bad_images_cannot_be_skipped_if_every_image_is_encoded():
    says = refusal(["data.on_bad_image=skip", "sampling.hard_negatives=descriptors"])
    assert "data.on_bad_image is skip; expected stop with sampling.hard_negatives" in says
    assert load_config(None, ["data.on_bad_image=skip", "sampling.hard_negatives=map"])
