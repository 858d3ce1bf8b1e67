"""Generate a world: a data set in GTA-UAV's layout, from a seed.

First frames, pairs and splits are drawn at random (frames.py) and written, row by row to save memory. Then the map is
planned (town.py) and drawn as layers (ground.py), painted once for the satellite and once per season for the drones
(images.py), and photographed (camera.py).
"""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from mindloc.errors import DataError
from mindloc.world.frames import (
    DRONE_DIRECTORY,
    POSITIVE_IOU,
    SATELLITE_DIRECTORY,
    Frames,
    Gallery,
    build_gallery,
    draw_frames,
    tile_files,
)
from mindloc.world.images import ReportProgress, no_progress, write_images
from mindloc.world.spec import WORLD_VERSION, WorldSpec

_METADATA = ("drone_roll", "drone_pitch", "drone_yaw", "cam_roll", "cam_pitch", "cam_yaw")
_ROUND = {"m": 3, "iou": 6, "deg": 3}  # decimals of meters, IoUs and degrees in the files


def _members(frames: Frames) -> dict[tuple[str, str], np.ndarray]:
    """(area, split) -> (F,) bool: the frames in the list of this area and split."""
    return {
        ("cross", "train"): ~frames.cross_test_F & ~frames.straddles_F,
        ("cross", "test"): frames.cross_test_F & ~frames.straddles_F,
        ("same", "train"): ~frames.same_test_F,
        ("same", "test"): frames.same_test_F,
    }


def write_pair_lists(root: Path, spec: WorldSpec, frames: Frames, gallery: Gallery, progress: ReportProgress) -> None:
    """Write {cross,same}-area-drone2sate-{train,test}.json; a split without frames gets no file."""
    members = {f"{area}-area-drone2sate-{split}": member_F for (area, split), member_F in _members(frames).items()}
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(open(root / f"{name}.json", "w", encoding="utf-8", newline="\n"))
            for name, member_F in members.items()
            if member_F.any()
        }
        before = dict.fromkeys(files, "[\n")
        for index, row in enumerate(_rows(spec, frames, gallery)):
            line = json.dumps(row)
            for name, file in files.items():
                if members[name][index]:
                    file.write(before[name] + line)
                    before[name] = ",\n"
            if index % 1000 == 999 or index + 1 == len(frames.names):
                progress("pair lists", index + 1, len(frames.names))
        for file in files.values():
            file.write("\n]\n")


def write_card(root: Path, spec: WorldSpec, frames: Frames, gallery: Gallery) -> None:
    """Write world.json: the values needed to read the data set, its contents, and the spec it was generated from."""
    card = {
        "version": WORLD_VERSION,
        "map_px": spec.map_px,
        "m_per_px": spec.m_per_px,
        "seed": spec.seed,
        "tiles": len(gallery.tile_T4),
        "drones": len(frames.names),
        "frames": {f"{area}_{split}": int(member_F.sum()) for (area, split), member_F in _members(frames).items()},
        "pos_pairs": int((frames.overlaps.iou_E > POSITIVE_IOU).sum()),
        "pos_semipos_pairs": len(frames.overlaps.iou_E),
        "frames_without_positive": int((frames.overlaps.best() <= POSITIVE_IOU).sum()),
        "cross_border_x_m": round(frames.border_m, _ROUND["m"]),
        "spec": spec.as_dict(),
    }
    (root / "world.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _rows(spec: WorldSpec, frames: Frames, gallery: Gallery) -> Iterator[dict]:
    """Yield a dict with exactly GTA-UAV's keys for each frame."""
    tile_names = tile_files(spec, gallery)
    tile_places = gallery.grid.center_of(gallery.tile_T4).round(_ROUND["m"]).tolist()
    edges = frames.overlaps
    tile_E, iou_E = edges.tile_E.tolist(), edges.iou_E.round(_ROUND["iou"]).tolist()
    positives_F = (
        np.bincount(
            np.repeat(np.arange(len(frames.names)), np.diff(edges.start)),
            weights=edges.iou_E > POSITIVE_IOU,
            minlength=len(frames.names),
        )
        .astype(int)
        .tolist()
    )
    place_F2 = frames.poses.place_F2.round(_ROUND["m"]).tolist()
    metadata = _metadata(frames)
    start = edges.start.tolist()
    for index, name in enumerate(frames.names):
        row = {
            "drone_img_dir": DRONE_DIRECTORY,
            "drone_img_name": name,
            "drone_loc_x_y": place_F2[index],
            "sate_img_dir": SATELLITE_DIRECTORY,
        }
        first = start[index]
        for kind, end in (("pos", first + positives_F[index]), ("pos_semipos", start[index + 1])):
            tiles = tile_E[first:end]  # best first, so the positives lead the semi-positives
            row[f"pair_{kind}_sate_img_list"] = [tile_names[tile] for tile in tiles]
            row[f"pair_{kind}_sate_weight_list"] = iou_E[first:end]
            row[f"pair_{kind}_sate_loc_x_y_list"] = [tile_places[tile] for tile in tiles]
        row["drone_metadata"] = {key: column[index] for key, column in metadata.items()}
        yield row


def _metadata(frames: Frames) -> dict[str, list[float]]:
    """Metadata key -> its values of all frames: height in meters, angles in degrees."""
    columns = {"height": frames.poses.height_F.round(_ROUND["m"]).tolist()}
    for key in _METADATA:
        columns[key] = getattr(frames.poses, f"{key}_F").round(_ROUND["deg"]).tolist()
    return columns


def generate_world(
    spec: WorldSpec, directory: Path, progress: ReportProgress | None = None, workers: int | None = None
) -> Path:
    """Write the world of ``spec`` into ``directory`` and return it. The bytes depend only on the spec.

    Args:
        spec: settings of the world.
        directory: a path that does not exist, or an empty directory.
        progress: called as progress(stage, done, total).
        workers: number of threads that paint; None means one per core, up to 8.

    Raises:
        DataError: the spec is invalid, ``directory`` is a file or not empty.
        OSError: the files can't be written.
    """
    spec.check()
    require_free(directory)
    directory.mkdir(parents=True, exist_ok=True)
    progress = progress or no_progress
    gallery = build_gallery(spec)
    frames = draw_frames(spec, gallery)
    write_pair_lists(directory, spec, frames, gallery, progress)
    if not spec.json_only:
        write_images(directory, spec, frames, gallery, progress, workers or min(os.cpu_count() or 1, 8))
    write_card(directory, spec, frames, gallery)
    return directory


def require_free(directory: Path) -> None:
    """Refuse a place that contains anything.

    Raises:
        DataError: it is a file, or a directory that is not empty.
    """
    if directory.exists() and not directory.is_dir():
        raise DataError(f"{directory} is a file; a world needs a new directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise DataError(f"{directory} is not empty; a world needs a new directory: choose another, or remove it first")
