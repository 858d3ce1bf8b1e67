"""Generate a world: a data set in GTA-UAV's layout, from a seed.

Frames, pairs and splits are decided first (frames.py), then the map is laid out (town_plan.py, map_layers.py), painted
once for the satellite and once per season for the drones (painting.py), and photographed (drone_view.py).
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from mindloc.errors import DataError
from mindloc.world.frames import draw_frames
from mindloc.world.meta_files import write_card, write_pair_lists
from mindloc.world.pairs import build_gallery
from mindloc.world.pictures import write_pictures
from mindloc.world.spec import WorldSpec

Progress = Callable[[str, int, int], None]  # stage, done, total


def generate_world(spec: WorldSpec, out: Path, progress: Progress | None = None, workers: int | None = None) -> Path:
    """Write the world of ``spec`` into the folder ``out`` and return it.

    All is written into a hidden folder beside ``out`` that takes its name at the very end, so a world that is there is
    whole. The bytes depend on the spec alone.

    Args:
        spec: what to make.
        out: absent, or an empty folder.
        progress: called as progress(stage, done, total).
        workers: threads that paint; None takes one per core, up to 8.

    Raises:
        DataError: the spec can't be made, ``out`` is not empty, or the disk refuses.
    """
    out = Path(out)
    spec.check()
    _refuse_if_taken(out)
    progress = progress or (lambda stage, done, total: None)
    gallery = build_gallery(spec)
    frames = draw_frames(spec, gallery)
    unfinished = _unfinished_folder(out)
    try:
        write_pair_lists(unfinished, spec, frames, gallery, progress)
        if not spec.json_only:
            write_pictures(unfinished, spec, frames, gallery, progress, workers or min(os.cpu_count() or 1, 8))
        write_card(unfinished, spec, frames, gallery)
        unfinished.chmod(0o755)
        _refuse_if_taken(out)
        os.replace(unfinished, out)
    except OSError as error:
        raise DataError(f"can't write the world {out}: {error}; free some space or choose another folder") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out


def _refuse_if_taken(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; a world needs a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; a world needs a new folder: choose another, or remove it first")


def _unfinished_folder(out: Path) -> Path:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.unfinished-", dir=out.parent))
    except OSError as error:
        raise DataError(f"can't create a folder beside {out}: {error}; choose a folder you may write to") from error
