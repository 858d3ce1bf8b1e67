"""The installed program in a directory whose path needs quotes: first steps, and every command that it prints."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from advice import commands_named
from small_world import PROJECT, SETTINGS, WORLD, finish, set_words, start

pytestmark = pytest.mark.slow

DATA = "da ta"
SMALL = {
    **{key: SETTINGS[key] for key in SETTINGS if key.startswith(("data.", "eval.", "run."))},
    "data.test_root": "null",
    "model.reference_grid": 2,
    "train.batch_size": 8,
    "train.epochs": 1,
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A shell in its own directory that finds the installed program, but not the source code."""
    base = tmp_path_factory.mktemp("installed")
    source = base / "source"
    shutil.copytree(PROJECT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("pyproject.toml", "README.md", "requirements.txt"):
        shutil.copy(PROJECT / file, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", base, source]
    subprocess.run(wheel, check=True, capture_output=True)
    here = base / "it's \u4e1c\u65b9"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", here / "venv"], check=True)
    packages = next((here / "venv").glob("lib/*/site-packages"))
    (packages / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")  # MindSpore and the rest
    install = [*pip, "--python", here / "venv", "install", "--no-deps", "--no-index", *base.glob("*.whl")]
    subprocess.run(install, check=True, capture_output=True)
    environment = {"PATH": f"{here / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": ""}

    def run(line: str, code: int = 0) -> str:
        done = finish(start(["bash", "-c", line], cwd=here, env=environment))
        assert done.returncode == code, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    run.here, run.environment = here, environment
    return run


@pytest.fixture(scope="module")
def trained(shell) -> str:
    """The output of the training run that the other tests continue."""
    shell(f"mindloc world {shlex.quote(DATA)} {WORLD} --drones 48")
    return shell(train_line())


def train_line(*more: str) -> str:
    words = ["--config", "world_tiny", *set_words({**SMALL, "data.root": DATA}), *more]
    return f"mindloc train {shlex.join(words)}"


def named(said: str, before: str) -> str:
    """The command at the end of the line that contains ``before``."""
    return re.search(rf"(?m){before}: (mindloc .*)$", said)[1]


def test_a_newcomer_gets_from_a_world_to_answers_and_exported_files(shell, trained):
    assert shell("mindloc --version").strip()
    settings = shlex.join(set_words({**SMALL, "data.root": DATA}))
    assert "ok: no problems" in shell(f"mindloc check-data --config world_tiny {settings}")
    assert "checkpoint: weights_best.safetensors of work_dir/" in shell("mindloc eval --checkpoint work_dir/latest")
    tiles = f"mindloc extract {shlex.quote(DATA)}/satellite --checkpoint work_dir/latest --places --out tiles"
    assert "images in" in shell(tiles)
    assert "tiles, kind flat" in shell("mindloc index build tiles --index tiles_index")
    search = f"mindloc search {shlex.quote(DATA)}/drone/images --checkpoint work_dir/latest --index tiles_index"
    shell(f"{search} --out answers.jsonl")
    assert len((shell.here / "answers.jsonl").read_text().splitlines()) == 48
    assert "reloaded" in shell("mindloc export --checkpoint work_dir/latest")
    assert not any((shell.here / "venv").rglob("work_dir"))  # nothing is written beside the program


def test_the_evaluation_command_that_a_training_prints(shell, trained):
    assert "report and figures" in shell(named(trained, "evaluate with"))


def test_the_command_that_is_recorded(shell, trained):
    first = (shell.here / "work_dir" / "latest").resolve()
    command = json.loads((first / "code.json").read_text())["command"]
    assert shlex.split(command) == shlex.split(train_line())
    shell(command)
    second = (shell.here / "work_dir" / "latest").resolve()
    assert second != first and json.loads((second / "code.json").read_text())["command"] == command


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_how_to_continue_a_stopped_training(shell, trained, name):
    run = shell.here / f"the run {name}"
    words = set_words({"train.epochs": 8, "train.checkpoint_every_epochs": 1, "train.log_every_steps": 1})
    line = train_line("--run_dir", str(run), *words)
    process = start(["bash", "-c", f"exec {line}"], cwd=shell.here, env=shell.environment)
    next(line for line in process.stdout if "epoch 3/" in line)
    process.send_signal(getattr(signal, name))
    done = finish(process)
    assert done.returncode == 130
    resume = named(done.stderr, "continue from the newest checkpoint with")
    assert "resumed from weights_e" in shell(resume)
    refused = shell(train_line("--run_dir", str(run)), code=2)  # not empty
    assert shlex.split(named(refused, "resume this run")) == shlex.split(resume)


def test_the_settings_that_a_world_names(shell):
    said = shell(f"mindloc world other --seed 7 {WORLD} --drones 24")
    settings = said.splitlines()[-1].strip()
    assert shlex.split(settings)[::2] == ["--set", "--set"]
    shell(f"mindloc check-data other {settings}")
    assert "data.m_per_px=" in shell("mindloc check-data other --set data.map_px=512 --set data.m_per_px=0.3", code=1)


def test_a_training_from_weights_that_an_extraction_refuses(shell, trained):
    """MindSpore's own checkpoint has names and arrays, and no config."""
    newest = sorted((shell.here / "work_dir/world_tiny").glob("*/checkpoints/weights_best.safetensors"))[-1]
    code = (
        "import sys, mindspore as ms; from safetensors.numpy import load_file; arrays = load_file(sys.argv[1]); "
        "ms.save_checkpoint([{'name': name, 'data': ms.Tensor(arrays[name])} for name in arrays], 'mine.ckpt')"
    )
    shell(shlex.join(["python", "-c", code, str(newest)]))
    refused = shell(f"mindloc extract {shlex.quote(DATA)}/satellite --checkpoint mine.ckpt --out none", code=2)
    (training,) = commands_named(refused, NAME="world_tiny")
    settings = set_words({**SMALL, "data.root": DATA})
    assert "mine.ckpt" in shell(shlex.join(["mindloc", *training, *settings]))


def test_the_export_command_that_an_evaluation_prints(shell, trained):
    exported = "mindloc eval --checkpoint work_dir/latest --engine mindir --exported 'my files'"
    (shell.here / "my files").mkdir(exist_ok=True)
    assert "reloaded" in shell(named(shell(exported, code=2), "write it with"))
    assert "report and figures" in shell(exported)
    assert Path(shell.here / "my files" / "encoder.mindir").is_file()
