"""Export of a checkpoint: which files are written, under which names, and what is refused."""

import json
import os

import numpy as np
import pytest

pytest.importorskip("mindspore")

from mindloc.cli import main
from mindloc.errors import CheckpointError, ConfigError, ExportError
from mindloc.export.build import ExportRequest, export_checkpoint
from mindloc.inference.exported import read_card


@pytest.fixture
def planned(monkeypatch):
    """Exports that only note what would be written: file name -> spec."""
    notes = {}

    def note(side_encoder, spec, path, file_format, facts, key):
        notes[path.name] = spec
        return {"compared": False, "why": "a test"}

    monkeypatch.setattr("mindloc.export.build.export_file", note)
    return notes


def test_one_file_serves_both_sides_of_one_size(twin_checkpoint, tmp_path, planned):
    export_checkpoint(twin_checkpoint, tmp_path, ExportRequest())
    assert {name: tuple(spec.sides) for name, spec in planned.items()} == {"encoder.mindir": ("query", "reference")}


@pytest.mark.parametrize(
    "settings",
    [
        ["data.query_size_px=[32, 48]", "data.reference_size_px=[32, 32]"],
        ["data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]", "augment.cut_border=0.1"],
        ["data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]", "model.share_weights=false"],
    ],
)
def test_sides_that_differ_have_a_file_each(make_checkpoint, tmp_path, planned, settings):
    export_checkpoint(make_checkpoint(*settings), tmp_path, ExportRequest("ONNX", file_name="mine.onnx"))
    assert {name: tuple(spec.sides) for name, spec in planned.items()} == {
        "mine_drone.onnx": ("query",),
        "mine_satellite.onnx": ("reference",),
    }


def test_view_query_is_the_side_of_the_queries(make_checkpoint, checkpoint, tmp_path, planned):
    export_checkpoint(checkpoint, tmp_path, ExportRequest(view="query"))
    swapped = make_checkpoint("eval.swap_sides=true", "data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]")
    export_checkpoint(swapped, tmp_path, ExportRequest(view="query", file_name="q"))
    assert {name: tuple(spec.sides) for name, spec in planned.items()} == {
        "drone.mindir": ("query",),
        "q.mindir": ("reference",),
    }


def test_defaults_of_batch_and_precision(make_checkpoint, tmp_path, planned):
    half = make_checkpoint("train.precision=fp16", "data.query_size_px=[32, 32]", "data.reference_size_px=[32, 32]")
    for request in (
        ExportRequest(),
        ExportRequest("ONNX"),
        ExportRequest("ONNX", batch_size=8, precision="fp16", file_name="b"),
    ):
        export_checkpoint(half, tmp_path, request)
    assert {name: (spec.batch_size, spec.precision) for name, spec in planned.items()} == {
        "encoder.mindir": (None, "fp16"),
        "encoder.onnx": (1, "fp32"),
        "b.onnx": (8, "fp16"),
    }


def test_a_card_is_read_as_it_was_written(checkpoint, tmp_path):
    request = ExportRequest("ONNX", "satellite", 2, with_normalization=True)
    (exported,) = export_checkpoint(checkpoint, tmp_path / "out", request)
    card = read_card(exported.path)
    card.require_intact()
    assert (card.sides, card.batch_size, card.size_px, card.takes_pixels) == (
        {"reference": "satellite"},
        2,
        (32, 32),
        True,
    )
    assert card.input_shape == (2, 32, 32, 3) and card.dimensions == {"global": 192} and not card.encrypted
    assert card.config["model"]["backbone"] == "tiny" and card.precision == "fp32"
    assert "reloaded, differs from the live encoder by" in str(exported)


def test_every_gelu_is_written_with_erf(checkpoint, tmp_path):
    """The values are compared with the live encoder's elsewhere; here: the operators are those of GELU with Erf."""
    import onnx

    (exported,) = export_checkpoint(checkpoint, tmp_path, ExportRequest("ONNX", "satellite"))
    kinds = [node.op_type for node in onnx.load(str(exported.path)).graph.node]
    assert kinds.count("Erf") == 2 and "Tanh" not in kinds  # one in each of shallow tiny's blocks
    assert exported.check["largest_difference"] < 1e-5


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ExportRequest("ONNX", batch_size="any"), "ONNX files take a fixed number of images"),
        (ExportRequest(batch_size=0), "batch size is 0"),
        (ExportRequest("ONNX", key=bytes(16)), "can't be encrypted, only MINDIR"),
        (ExportRequest("ONNX", precision="bf16"), "fp32 or fp16, not bf16"),
        (ExportRequest(file_name="../x"), "'../x', expected a plain name"),
        (ExportRequest(file_name=""), "'', expected a plain name"),
    ],
)
def test_requests_that_contradict_each_other(tmp_path, request_, message):
    with pytest.raises(ConfigError, match=message):
        export_checkpoint(tmp_path / "x.safetensors", tmp_path / "out", request_)
    assert list(tmp_path.iterdir()) == []


def test_air_off_ascend_is_an_error_that_states_the_need(checkpoint, tmp_path):
    with pytest.raises(ExportError, match="written on an Ascend only, but the target is CPU; .*CANN"):
        export_checkpoint(checkpoint, tmp_path / "out", ExportRequest("AIR"), "CPU")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_writes_nothing(tmp_path):
    with pytest.raises(CheckpointError):
        export_checkpoint(tmp_path / "x.safetensors", tmp_path / "out", ExportRequest())
    assert list(tmp_path.iterdir()) == []


def hostile(tmp_path, checkpoint):
    (tmp_path / "text.safetensors").write_text("weights")
    (tmp_path / "short").write_bytes(b"0123456789")
    (tmp_path / "line").write_bytes(b"0123456789abcdef\n")
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    good = ["--checkpoint", str(checkpoint)]
    return {
        "no checkpoint": ["--checkpoint", str(tmp_path / "text.safetensors")],
        "10 bytes; an AES key": [*good, "--enc_key_file", str(tmp_path / "short")],
        "17 bytes and ends in a newline": [*good, "--enc_key_file", str(tmp_path / "line")],
        "pipe is a pipe, expected a file": [*good, "--enc_key_file", str(tmp_path / "pipe")],
        "key file nowhere": [*good, "--enc_key_file", "nowhere"],
        "written on an Ascend only": [*good, "--file_format", "AIR"],
        "fixed number of images": [*good, "--file_format", "ONNX", "--batch_size", "any"],
        "no CPU matrix products: use --precision fp32": [*good, "--precision", "bf16"],
        "can't write": [*good, "--out", str(tmp_path / "file"), "--view", "query", "--batch_size", "1"],
    }


def test_hostile_exports_are_one_line_each(tmp_path, checkpoint, capsys):
    says = hostile(tmp_path, checkpoint)
    before = sorted(tmp_path.rglob("*"))
    for message, arguments in says.items():
        assert main(["export", "--device_target", "CPU", *arguments]) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("error: ") and "\n" not in error
        assert message in error or message == "no checkpoint" and "text.safetensors" in error, error
    assert sorted(tmp_path.rglob("*")) == before
    assert not (checkpoint.parents[1] / "export").exists()


def test_a_checkpoint_without_a_run_has_its_export_beside_it(make_checkpoint, checkpoint, tmp_path):
    from mindloc.runtime.run_directory import export_directory

    assert export_directory(checkpoint) == checkpoint.parents[1] / "export"
    assert export_directory(tmp_path / "weights.safetensors") == tmp_path / "export"


def test_the_command_writes_what_its_flags_say(checkpoint, tmp_path, capsys):
    flags = "--file_format ONNX --view drone --batch_size 2 --with_normalization --unit_length --file_name camera"
    assert main(["export", "--checkpoint_file", str(checkpoint), "--out", str(tmp_path), *flags.split()]) == 0
    assert "camera.onnx:\n  reloaded" in capsys.readouterr().out
    card = json.loads((tmp_path / "camera.onnx.json").read_text())
    assert card["input"]["shape"] == [2, 32, 48, 3] and card["outputs"][0]["length"] == "1"
    assert np.isclose(card["input"]["std"], 0.5).all()
