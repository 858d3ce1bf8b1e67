"""From the places of a script to the arguments of train.py and eval.py."""

import json
from pathlib import Path

import yaml

from mindloc.errors import LaunchError
from mindloc.launch.script_arguments import ScriptArguments


def train_arguments(given: ScriptArguments, config: Path) -> list[str]:
    """Arguments of train.py, without the script's trailing options, which come after these and win.

    A CHECKPOINT_PATH that is a run folder is resumed with its own config, in its own folder; a file gives the weights
    to begin from.

    Raises:
        LaunchError: the checkpoint is a folder, but no run's.
    """
    words = ["--data_root", yaml_text(given.dataset)]
    if resumes(given):
        words = ["--resume", str(given.checkpoint), *words]
    else:
        words = ["--config", str(config), *words, "--set", f"run.work_dir={yaml_text(given.output)}"]
        if given.checkpoint:
            words += ["--checkpoint_start", yaml_text(given.checkpoint)]
    if not given.eval_callback:
        words += ["--set", "train.eval_every_epochs=0", "--set", "train.zero_shot_eval=false"]
    return words


def eval_arguments(given: ScriptArguments) -> list[str]:
    """Arguments of eval.py, without the script's trailing options.

    Of a run folder the best weights are evaluated, or the last where no epoch was.
    """
    assert given.checkpoint is not None  # read_arguments asks for it
    of_a_run = (given.checkpoint / "checkpoints" / f"weights_{which}.safetensors" for which in ("best", "end"))
    checkpoint = next((path for path in of_a_run if path.is_file()), given.checkpoint)
    return ["--checkpoint", str(checkpoint), "--data_root", yaml_text(given.dataset)]


def resumes(given: ScriptArguments) -> bool:
    """Whether the checkpoint is a run to go on with.

    Raises:
        LaunchError: it is another folder.
    """
    if given.checkpoint is None or given.checkpoint.is_file():
        return False
    if not (given.checkpoint / "config.yaml").is_file():
        raise LaunchError(
            f"CHECKPOINT_PATH {given.checkpoint} is a folder without config.yaml; give a run folder "
            "(work_dir/NAME/MMDDhhmmss) to go on with it, or a .safetensors file to begin from its weights"
        )
    return True


def yaml_text(path: Path) -> str:
    """A path as train.py reads it back, which takes values for YAML: in quotes where it would read something else."""
    text = str(path)
    try:
        return text if yaml.safe_load(text) == text else json.dumps(text, ensure_ascii=False)
    except yaml.YAMLError:
        return json.dumps(text, ensure_ascii=False)
