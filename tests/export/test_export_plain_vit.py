"""A plain ViT, whose positions are resampled in the graph, is exported like any other encoder."""

import json

import pytest

pytest.importorskip("mindspore")

from mindloc.export.build import ExportRequest, export_checkpoint
from mindloc.models import vit_plain
from mindloc.models.vit_plain import PlainVitSize

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def plain_checkpoint(make_checkpoint, monkeypatch):
    """A plain ViT with two blocks, which compiles faster; one view uses the positions as they are, one resampled."""
    monkeypatch.setattr(vit_plain, "plain_vit_size", lambda name: PlainVitSize(192, 2, 3, 16, 2))
    return make_checkpoint(f"model.backbone={NAME}", "data.query_size_px=[32, 48]", "data.reference_size_px=[32, 32]")


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_the_exported_file_gives_the_descriptors_of_the_live_encoder(plain_checkpoint, tmp_path, file_format):
    for exported in export_checkpoint(plain_checkpoint, tmp_path, ExportRequest(file_format, batch_size=1)):
        card = json.loads(exported.path.with_name(exported.path.name + ".json").read_text())
        assert card["check"]["compared"] and card["check"]["largest_difference"] <= 1e-5
        assert card["outputs"][0]["dimension"] == 192
