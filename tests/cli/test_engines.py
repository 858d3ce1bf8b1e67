"""Which engine a command runs, and what is said when it can't."""

import pytest

from mindloc.cli import main
from mindloc.config import config_to_dict, load_config
from mindloc.runtime.checkpoint import save_weights
from mindloc.runtime.process import command_line


@pytest.fixture
def checkpoint(tmp_path):
    import numpy as np

    path = tmp_path / "run" / "checkpoints" / "weights.safetensors"
    save_weights(path, {"weight": np.zeros(1, np.float32)}, config_to_dict(load_config()))
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--checkpoint RUN is missing"),
        (["--engine", "onnx"], "--engine onnx needs --exported PATH, or a --checkpoint"),
        (
            ["--engine", "onnx", "--exported", "nowhere"],
            "nowhere does not exist; write it with: {export} --ch",
        ),
        (
            ["--checkpoint", "x", "--precision", "int8"],
            "int8 is not supported by --engine mindspore; choose from fp32, fp16, bf16",
        ),
        (["--engine", "mindir", "--exported", "x", "--tensorrt"], "--tensorrt has no effect with --engine mindir"),
        (["--checkpoint", "x", "--exported", "y"], "--exported has no effect with --engine mindspore"),
        (
            ["--engine", "onnx", "--exported", "x", "--dec_key_file", "y"],
            "--dec_key_file has no effect with --engine onnx",
        ),
    ],
)
@pytest.mark.parametrize("command", ["eval", "extract"])
def test_arguments_that_contradict_each_other(command, arguments, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    own = ["images", "--out", "set"] if command == "extract" else []
    assert main([command, *own, *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and says.format(export=command_line("export")) in error and "\n" not in error


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.backbone=tiny", "model.backbone can't be set here: it is fixed by the checkpoint"),
        ("search.recall_n=50", "search.recall_n is 50; expected 100 with head.name=global"),
        ("data.test_map_px=9", "data.test_map_px is 9; expected null with data.reader=visloc"),
    ],
)
def test_an_evaluation_overrides_only_keys_that_are_read_and_not_fixed(checkpoint, override, says, capsys):
    words = ["--checkpoint", str(checkpoint), "--set", "data.reader=visloc", "--set", override]
    assert main(["eval", *words]) == 2
    assert says in capsys.readouterr().err


def test_missing_exported_files_name_the_export_command(checkpoint, capsys):
    assert main(["eval", "--checkpoint", str(checkpoint), "--engine", "onnx", "--precision", "fp16"]) == 2
    words = ("export", "--checkpoint", checkpoint, "--file_format", "ONNX", "--precision", "fp16")
    assert capsys.readouterr().err.strip().endswith(f"write it with: {command_line(*words)}")
    directory = checkpoint.parents[1] / "mine"
    directory.mkdir()
    assert main(["eval", "--checkpoint", str(checkpoint), "--engine", "mindir", "--exported", str(directory)]) == 2
    error = capsys.readouterr().err.strip()
    assert "contains no MINDIR file; write it with:" in error and error.endswith(f"--out {directory}")
