"""Every command explains itself, and a mistake of the user is one line and an exit code."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import mindloc
from mindloc.cli import COMMANDS, main
from mindloc.runtime.process import command_line

MANY = ("index", "launch")  # commands of more than one use, which show those


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        page = capsys.readouterr().out
        assert page.startswith("Usage:") and (f"mindloc {command} " in page.partition("Example:")[2] or command in MANY)


def commands():
    """(name, command) of all, those of ``index`` each."""
    for name in COMMANDS:
        command = mindloc.cli.mindloc.get_command(None, name)
        yield from command.commands.items() if isinstance(command, click.Group) else [(name, command)]


def test_the_help_of_an_option_has_more_words_than_its_name():
    for name, command in commands():
        context = click.Context(command, info_name=name)
        for option in [param for param in command.params if isinstance(param, click.Option)]:
            _, text = option.get_help_record(context)
            words = re.findall(r"\w+", text.lower())
            assert set(words) - {*option.name.split("_"), "default", "sets"} and "sets " not in text, (
                name,
                option.name,
            )


def test_a_known_flag_is_explained_by_its_setting(capsys):
    assert main(["train", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "--lr X learning rate at its peak, after the warm- up; default: 0.0001 " in page  # a line ends there
    assert "--train_mode pos|pos_semipos training pairs:" in page and "--query_mode D2S|S2D" in page
    assert main(["eval", "--help"]) == 0
    assert "--data_root TEXT directory of the data set; default: the checkpoint's " in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["train", "--set", "train.epoch=3"], "did you mean train.epochs?"),
        (["train", "--data_root", "nowhere"], "nowhere"),
        (["train", "--resume", "nowhere"], "nowhere is not a run directory"),
        (["eval", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["eval", "--checkpoint", "."], "is a directory"),
        (["world", "w", "--zooms", "30"], "zooms are (30,); "),
        (["export", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["score", "nowhere"], "nowhere"),
        (["extract", "nowhere", "--checkpoint", "x", "--out", "y"], "checkpoint x is missing"),
        (["world", "w", "--zooms", "-1"], "zooms"),
        (["pca", "x" * 300, "--out", "y.safetensors"], "can't be used: File name too long"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and says in error
    assert "\n" not in error
    assert not any(tmp_path.iterdir()), "a refused command left something behind"


def test_check_data_of_a_missing_directory_is_not_ok(capsys, tmp_path):
    assert main(["check-data", str(tmp_path / "nowhere")]) == 1
    assert "NOT OK" in capsys.readouterr().out


def test_check_data_looks_at_the_second_root_with_its_own_map(capsys, tmp_path):
    world = "world {} --map_px 512 --zooms 2 --tile_size_px 16 --drone_size_px 16 16 --flights 1 --drones 4"
    for name, share in (("train", 0), ("test", 1)):
        arguments = [*world.format(tmp_path / name).split(), "--test_share", str(share), "--m_per_px", str(share + 1)]
        assert main(arguments) == 0
    capsys.readouterr()
    settings = [f"data.{split}_pairs=same-area-drone2sate-{split}.json" for split in ("train", "test")]
    roots = [f"data.root={tmp_path / 'train'}", f"data.test_root={tmp_path / 'test'}"]
    settings += [*roots, "data.map_px=512", "data.m_per_px=1", "data.test_m_per_px=2"]
    command = ["check-data", *(word for each in settings for word in ("--set", each))]
    assert main(command) == 0
    page = capsys.readouterr().out
    assert page.count("ok: no problems") == 2 and "differ from the computed" not in page
    assert main([*command, str(tmp_path / "train")]) == 0
    assert capsys.readouterr().out.count("ok: no problems") == 1  # only the given directory is checked
    assert main([*command, "--set", "data.test_map_px=1024", str(tmp_path / "train")]) == 0
    assert "differ from the computed" not in capsys.readouterr().out  # also its test pairs are on its map
    (tmp_path / "test/satellite").rename(tmp_path / "test/gone")
    assert main(command) == 1


def test_windows_is_refused_in_one_line(capsys, monkeypatch):
    with monkeypatch.context() as windows:
        windows.setattr("os.name", "nt")
        assert main(["doctor"]) == 2
    assert capsys.readouterr().err == (
        "error: mindloc does not run on Windows itself; run it in WSL, its Linux: wsl --install\n"
    )


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["trian"], "no such command 'trian'; did you mean 'train'? see {} --help"),
        (["train", "--epoches", "3"], "no such option '--epoches'; did you mean one of: '--begin_epoch', '--epoch', "),
        (
            ["train", "--batch-sise", "3"],
            "no such option '--batch_sise'; did you mean '--batch_size'? see {} train --help",
        ),
        (
            ["search", "--near", "1,x"],
            "invalid value for '--near': '1,x' is not 2 numbers separated by commas; see {} se",
        ),
        (
            ["eval", "--engine", "onx"],
            "invalid value for '--engine': 'onx' is not one of mindspore, mindir, onnx; see {} e",
        ),
        (["extract", "images"], "missing option '--out'; see {} extract --help"),
        (["index", "build"], "missing argument 'DIRECTORY'; see {} index build --help"),
        (["train", "more"], "got unexpected extra argument (more); see {} train --help"),
    ],
)
def test_invalid_command_lines_are_one_line(argv, says, capsys):
    assert main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: " + says.format(command_line())) and "\n" not in error


def test_a_program_without_arguments_prints_its_commands(capsys):
    assert main([]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {name}  " in page for name in COMMANDS)
    assert main(["index"]) == 0 and "\n  build  " in capsys.readouterr().out


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import sys; from mindloc.cli import main; main([]); sys.exit(bool({'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    environment = {"PYTHONPATH": str(Path(mindloc.__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0
