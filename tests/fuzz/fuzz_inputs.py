"""Good inputs of every command, made once, and the command lines that read them.

``make_inputs(directory)`` fills a directory; the words of a ``CommandLine`` name what is in it, relative to it. The
encoder is tiny with two blocks, images are 32 pixels wide; descriptors of two stages are drawn, not computed.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from shallow import shallow_tiny
from small_world import PROJECT, SETTINGS, set_words

from mindloc.cli import main

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / "evaluation"), str(TESTS / "launch")]  # of their small modules, when run alone
WORLD = "--map_px 512 --zooms 2 3 --tiles 12 --tile_size_px 32 --drone_size_px 32 32 --flights 1 --drones 10"
WORLD_WORDS = f"{WORLD} --test_share 0.5 --heights_m 20".split()
TRAINING = {**SETTINGS, "data.map_px": 512, "data.root": "world", "model.reference_grid": 2}
TRAINING |= {
    "train.epochs": 1,
    "train.batch_size": 2,
    "train.eval_every_epochs": 0,
    "train.zero_shot_eval": False,
    "train.checkpoint_every_steps": 1,
}
TRAINING |= {"eval.contact_sheet_queries": 2, "data.workers": 1}
OF_DATA = set_words({key: value for key, value in TRAINING.items() if key.startswith("data.")})
OF_VISLOC = set_words({"data.reader": "visloc", "data.root": "visloc", "data.train_pairs": "train.json"})
OF_VISLOC += set_words({"data.test_pairs": "train.json", "data.map_px": "null", "data.m_per_px": "null"})
ONNX = ("--engine", "onnx", "--exported", "run/export")
OF_A_RUN = "run/checkpoints run/config.yaml run/metrics.jsonl run/log.txt"


@dataclass(frozen=True)
class CommandLine:
    """A command that succeeds on the inputs.

    Args:
        words: its name and arguments.
        reads: files and directories whose content it reads.
        writes: what it may change or make.
        weight: how often it is drawn.
        environment: variables that it reads.
    """

    words: tuple[str, ...]
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    weight: float = 1
    environment: dict[str, str] = field(default_factory=dict)


def line(text: str, reads: str = "", writes: str = "", weight: float = 1, more: tuple | list = (), **environment):
    return CommandLine((*text.split(), *more), tuple(reads.split()), tuple(writes.split()), weight, environment)


_TABLE_OUT = "--out new_table.json"
_TWO = "index_two_stage"
_PCA = "--pca reduction.safetensors"
_TRAIN = "train --config config.yaml --run_dir new_run"
COMMAND_LINES = [
    line("world new_world --seed 3", writes="new_world", weight=1, more=WORLD_WORDS),
    line("world killed_world --seed 3 --json_only", writes="killed_world", weight=1, more=WORLD_WORDS),
    line("check-data world", "world", weight=3, more=OF_DATA),
    line("check-data world --lists_only", "world", weight=2, more=OF_DATA),
    line("check-data visloc", "visloc", weight=3, more=OF_VISLOC),
    line("check-data --config config.yaml", "config.yaml", weight=3),
    line(_TRAIN, "config.yaml world", "new_run work_dir", weight=4),
    line(f"{_TRAIN} --set model.pretrained=zip.pth", "zip.pth config.json", "new_run work_dir", weight=3),
    line(f"{_TRAIN} --set model.pretrained=weights.ckpt", "weights.ckpt config.json", "new_run work_dir", weight=2),
    line(f"{_TRAIN} --checkpoint_start run", "run/checkpoints", "new_run work_dir", weight=2),
    line("train --resume run --set data.workers=1", OF_A_RUN, "run", weight=4),
    line("eval --split test --out report", "run/export world", "report", weight=3, more=ONNX),
    line("eval --checkpoint run --out new_report", "run/checkpoints", "new_report", weight=0.5),
    line("score report", "report world", "report", weight=3),
    line("score report --no_figures", "report", "report", weight=3),
    line("score report_two_stage --no_figures", "report_two_stage", "report_two_stage", weight=3),
    line("extract world/satellite --places --out tiles", "run/export world/satellite", "tiles", 4, more=ONNX),
    line(f"extract world/satellite {_PCA} --out new_set", "reduction.safetensors", "new_set", 2, ONNX),
    line("extract world/satellite --checkpoint run --out new_set", "run/checkpoints", "new_set", weight=0.5),
    line("extract world/satellite --engine mindir --exported mindir --out new_set", "mindir", "new_set", weight=0.5),
    line("index build tiles --index new_index", "tiles", "new_index", weight=3),
    line("index build two_stage --index index --kind hnsw", "two_stage index", "index", weight=2),
    line(f"index build tiles {_PCA} --index new_index", "reduction.safetensors tiles", "new_index"),
    line("index add tiles --index index", "tiles index", "index", weight=3),
    line(f"index remove --names_from names.txt --index {_TWO}", f"names.txt {_TWO}", _TWO, 3),
    line("index info --index index_two_stage", "index_two_stage", weight=3),
    line("pca tiles --dimension 4 --out new.safetensors", "tiles", "new.safetensors", weight=2),
    line("search --queries drones --index index --out answers.jsonl", "drones index", "answers.jsonl", weight=3),
    line(
        "search --queries two_stage --index index_two_stage --near 0,0 --within_m 90 --out answers.jsonl",
        "two_stage index_two_stage",
        "answers.jsonl",
        weight=3,
    ),
    line("search world/drone/images --index index --out answers.jsonl", "world/drone index", "answers.jsonl", 3, ONNX),
    line("export --checkpoint run --file_format PTH --out new_export", "run/checkpoints", "new_export", weight=2),
    line("export --checkpoint run --file_format ONNX --out new_export", "run/checkpoints", "new_export", weight=0.3),
    line("export --checkpoint run --enc_key_file key --out new_export", "key", "new_export", weight=0.5),
    line("rank-table --check table.json", "table.json", weight=3),
    line(f"rank-table {_TABLE_OUT} --merge table.json table_1.json", "table.json table_1.json", "new_table.json", 2),
    line(f"rank-table --devices 0,1 --without_device_ips --server_id 10.0.0.1 {_TABLE_OUT}", "", "new_table.json"),
    line("launch standalone 0 world out run", "run/config.yaml run/checkpoints", "out", weight=0.7),
    line("launch train table.json world out", "table.json", "out", weight=1, more=("--config", "config.yaml")),
    line("launch eval 0 world run", weight=0.5),
    line("doctor --json", "table.json", weight=0.2, RANK_TABLE_FILE="table.json"),
]


def make_inputs(directory: Path) -> None:
    """Fill the new directory with what ``COMMAND_LINES`` read."""
    directory.mkdir(parents=True)
    before = Path.cwd()
    os.chdir(directory)
    try:
        with shallow_tiny():
            _make_with_encoder()
        _make_killed_world()
        _make_visloc()
        _make_two_stages()
        _make_small_files()
    finally:
        os.chdir(before)


def _run(text: str, *more: str) -> None:
    assert main([*text.split(), *more]) == 0, text


def _make_with_encoder() -> None:
    _run("world world", *WORLD_WORDS)
    _run("train --run_dir run", *set_words(TRAINING))
    _run("export --checkpoint run --file_format ONNX")
    _run("export --checkpoint run --file_format MINDIR --out mindir")
    _run("extract world/satellite --places --out tiles", *ONNX)
    _run("extract world/drone/images --view drone --out drones", *ONNX)
    _run("eval --out report", *ONNX)
    _run("index build tiles --index index")
    _run("pca tiles --dimension 4 --out reduction.safetensors")
    shutil.copy("run/config.yaml", "config.yaml")


def _make_killed_world() -> None:
    """What a kill leaves while a world is written: a process that is killed before it renames the directory."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "MINDLOC_FAULT": "directory.mid_swap"}
    killed = subprocess.run([sys.executable, "-m", "mindloc", "world", "killed_world", *WORLD_WORDS], env=environment)
    assert killed.returncode == -9 and list(Path().glob(".killed_world*"))


def _make_visloc() -> None:
    """One map of 512 x 512 px with a drone image and two tiles."""
    from PIL import Image

    tiles = ["03_1_000_000.png", "03_1_000_001.png"]
    small = ["drone/images/03_0001.JPG", *(f"satellite/{tile}" for tile in tiles)]
    for name, size in {"03/satellite03.tif": 512, **dict.fromkeys(small, 32)}.items():
        path = Path("visloc", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (size % 256, 90, 20)).save(path)
    entry = {"drone_img_dir": "drone/images", "drone_img_name": "03_0001.JPG", "drone_loc_lat_lon": [31.7, 119.4]}
    entry |= {"sate_img_dir": "satellite", "drone_metadata": {"height": 466.0}}
    for mode in ("pos", "pos_semipos"):
        entry[f"pair_{mode}_sate_img_list"] = tiles
        entry[f"pair_{mode}_sate_weight_list"] = [0.5, 0.4]
        entry[f"pair_{mode}_sate_loc_lat_lon_list"] = [[31.75, 119.25], [31.75, 119.75]]
    Path("visloc/train.json").write_text(json.dumps([entry]))
    with open("visloc/satellite_coordinates_range.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["mapname", "LT_lat_map", "LT_lon_map", "RB_lat_map", "RB_lon_map", "region"])
        rows.writerow(["satellite03.tif", 32.0, 119.0, 31.0, 120.0, "Taizhou"])


def _make_two_stages() -> None:
    """An extraction with omega and phi, an index of it, and an evaluation of it against itself."""
    from score_settings import score_settings

    from mindloc.descriptors.sets import make_rows, save_descriptor_set
    from mindloc.evaluation.rescore import write_setup
    from mindloc.evaluation.truth import write_truth

    names, random = [f"{row}.png" for row in range(8)], np.random.default_rng(0)
    place_N2 = np.arange(16.0).reshape(8, 2) * 10
    rows = make_rows(names, place_N2, np.hstack([place_N2 - 5, place_N2 + 5]))
    places = [Path("two_stage"), Path("report_two_stage/query"), Path("report_two_stage/reference")]
    for descriptor in ("omega", "phi"):
        matrix = random.standard_normal((8, 6)).astype(np.float32)
        card = {"view": "satellite", "place_unit": "plane_m", "checkpoint_sha256": "a" * 64, "nodes": 2}
        for place in places:
            save_descriptor_set(place / descriptor, matrix, rows, {**card, "descriptor": descriptor})
    _run("index build two_stage --index index_two_stage")
    report = places[1].parent
    right = {mode: [[name] for name in names] for mode in ("pos", "pos_semipos")}
    write_truth(report / "truth.jsonl", names, right)
    settings = score_settings(bootstrap=5, recall_n=4).model_dump(mode="json")
    facts = {"origin": {"engine": "none"}, "notes": [], "image_root": "."}
    write_setup(report / "setup.json", {**facts, "settings": settings})


def _make_small_files() -> None:
    import mindspore as ms
    from rank_tables import servers_1_0

    from mindloc.runtime.checkpoint import load_weights

    Path("table.json").write_text(json.dumps(servers_1_0(servers=1, cards=2)))
    one = servers_1_0(servers=2, cards=2)
    one["server_list"], one["server_count"] = one["server_list"][1:], "1"
    for rank, card in enumerate(one["server_list"][0]["device"]):
        card["rank_id"] = str(rank)
    Path("table_1.json").write_text(json.dumps(one))
    Path("names.txt").write_text("1.png\n2.png\n")
    stated = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    Path("config.json").write_text(json.dumps({"pretrained_cfg": stated}))
    Path("key").write_bytes(bytes(range(16)))
    shutil.copy(TESTS / "models/fixtures/zip.pth", "zip.pth")
    weights = next(Path("run/checkpoints").glob("weights_end.safetensors"))
    arrays = load_weights(weights).arrays
    ms.save_checkpoint([{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()], "weights.ckpt")
