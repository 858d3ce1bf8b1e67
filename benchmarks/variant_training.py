"""One training of an ablation: told apart by everything that it was asked for, and done once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from project_command import run_command, set_words


def variant_folder(out: Path, name: str, settings: Mapping[str, object], changes: Sequence[str] = ()) -> Path:
    """Where the run of a variant lies: its name and a digest of its settings, so that others are never taken for it."""
    asked = json.dumps([{key: str(value) for key, value in settings.items()}, list(changes)], sort_keys=True)
    readable = "".join(c if c.isalnum() else "_" for c in name).strip("_")
    return out / f"{readable}_{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def train_variant(
    run: Path, config: Path, settings: Mapping[str, object], changes: Sequence[str] = (), jobs: int = 1
) -> bool:
    """Train unless that is done; what was stopped goes on. Returns whether there was anything to do."""
    if (run / "checkpoints" / "weights_end.safetensors").is_file():
        return False
    begin = ["--config", str(config), "--run_dir", str(run), *set_words(settings, changes)]
    goes_on = (run / "config.yaml").is_file()
    run_command(["train.py", *(["--resume", str(run)] if goes_on else begin)], run.with_suffix(".log"), jobs)
    return True
