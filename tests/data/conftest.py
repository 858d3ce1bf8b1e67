"""The small data set on disk."""

import json
from pathlib import Path

import pytest
from small_gta import TILES, gta_entries, write_image


@pytest.fixture
def gta_root(tmp_path) -> Path:
    """Three drone images, four tiles (one without a pair), the pairs in train.json."""
    root = tmp_path / "gta"
    for tile in TILES:
        write_image(root / "satellite" / tile, 8, 8)
    for entry in gta_entries():
        write_image(root / entry["drone_img_dir"] / entry["drone_img_name"])
    (root / "train.json").write_text(json.dumps(gta_entries()))
    return root


@pytest.fixture
def change_entries(gta_root):
    """Rewrite train.json: ``change_entries(function)``, where the function changes the list of entries in place."""

    def rewrite(change) -> Path:
        entries = gta_entries()
        change(entries)
        (gta_root / "train.json").write_text(json.dumps(entries))
        return gta_root

    return rewrite
