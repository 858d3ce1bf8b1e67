"""The encoder has the options of the config sections model and head."""

import numpy as np
import pytest

from mindloc.config import load_config
from mindloc.models import two_stage
from mindloc.models.build import build_encoder
from mindloc.models.vit_plain import plain_vit_size
from mindloc.registry import BACKBONES

# name -> width, blocks, heads; timm's values
ROPE = {"tiny": (192, 6, 3), "compact": (256, 8, 4), "small": (384, 12, 6), "medium": (512, 12, 8)}
ROPE |= {"base": (768, 12, 12)}
# name -> width, blocks, heads, patch, side of the learned grid: input size over patch; sizes of the ViT and DeiT papers
PLAIN = {
    "vit_tiny_patch16_224": (192, 12, 3, 16, 14),
    "vit_tiny_patch16_384": (192, 12, 3, 16, 24),
    "vit_small_patch8_224": (384, 12, 6, 8, 28),
    "vit_small_patch16_224": (384, 12, 6, 16, 14),
    "vit_small_patch16_384": (384, 12, 6, 16, 24),
    "vit_small_patch32_224": (384, 12, 6, 32, 7),
    "vit_small_patch32_384": (384, 12, 6, 32, 12),
    "vit_base_patch8_224": (768, 12, 12, 8, 28),
    "vit_base_patch16_224": (768, 12, 12, 16, 14),
    "vit_base_patch16_384": (768, 12, 12, 16, 24),
    "vit_base_patch32_224": (768, 12, 12, 32, 7),
    "vit_base_patch32_384": (768, 12, 12, 32, 12),
    "vit_large_patch16_224": (1024, 24, 16, 16, 14),
    "vit_large_patch16_384": (1024, 24, 16, 16, 24),
    "vit_large_patch32_224": (1024, 24, 16, 32, 7),
    "vit_large_patch32_384": (1024, 24, 16, 32, 12),
}
CONVOLUTIONAL = {"resnet50": 1024, "vgg16": 512}  # channels of the map at stride 16


def test_a_form_for_float32_refuses_other_precisions():
    config = load_config(None, ["model.backbone=tiny", "train.precision=fp16"])
    with pytest.raises(ValueError, match='"products" supports fp32 only, but the precision is fp16.* use form "pl'):
        build_encoder(config, form="products")


def test_the_table_has_every_backbone():
    assert set(BACKBONES) == {*ROPE, *PLAIN, *CONVOLUTIONAL}


@pytest.mark.parametrize("name", ROPE)
def test_rope_sizes(name):
    model = load_config(None, [f"model.backbone={name}", "model.patch_px=8", "model.reference_grid=5"]).model
    size = BACKBONES[name].build(model, "fp32", "plain").size
    assert (size.width, size.depth, size.heads, size.patch_px, size.reference_grid) == (*ROPE[name], 8, 5)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_sizes(name):
    size = plain_vit_size(name)
    assert (size.width, size.depth, size.heads, size.patch_px, size.grid) == PLAIN[name]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_widths(name):
    config = load_config(None, [f"model.backbone={name}"])
    assert build_encoder(config, lambda text: None).backbone_of("query").width == CONVOLUTIONAL[name]


def test_patch_and_layer_scale_reach_the_weights():
    encoder = build_encoder(
        load_config(None, ["model.backbone=tiny", "model.patch_px=8", "model.layer_scale_init=0.25"])
    )
    weights = {name: value.asnumpy() for name, value in encoder.parameters_and_names()}
    (patch,) = (value for name, value in weights.items() if name.endswith("patch_embed.proj.weight"))
    assert patch.size == 192 * 3 * 8 * 8
    scales = [value for name, value in weights.items() if "gamma" in name]
    assert len(scales) == 2 * 6  # two branches in each of six blocks
    assert all(np.array_equal(value, np.full(192, 0.25, np.float32)) for value in scales)


@pytest.mark.parametrize(
    ("override", "argument", "value"),
    [
        ("head.non_local=embedded_gaussian", "non_local", "embedded_gaussian"),
        ("head.non_local=none", "non_local", None),
        ("head.non_local_pool=2", "non_local_pool", 2),
        ("head.omega_grid=2", "omega_grid", 2),
        ("head.similarity=cosine", "similarity", "cosine"),
        ("head.area=count", "area", "count"),
        ("head.sort_by_area=false", "sort", False),
        ("head.phi_reads_non_local=true", "phi_reads_non_local", True),
        ("head.centroids=true", "centroids", True),
        ("head.channels=24", "channels", 24),
        ("head.nodes=3", "nodes", 3),
    ],
)
def test_the_head_gets_its_options(monkeypatch, override, argument, value):
    """The effect of each option is tested in test_two_stage_head.py, test_csmg.py and test_non_local.py."""
    given, real = [], two_stage.TwoStageHead
    monkeypatch.setattr(
        two_stage, "TwoStageHead", lambda *args, **options: given.append(options) or real(*args, **options)
    )
    sizes = ["data.query_size_px=[64, 64]", "data.reference_size_px=[64, 64]"]
    build_encoder(
        load_config(None, ["model.backbone=tiny", "head.name=two_stage", "head.channels=8", *sizes, override])
    )
    assert given[0][argument] == value
