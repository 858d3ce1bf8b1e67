"""extract --places, pca, index and search as whole commands: answers by hand and by definition, every refusal one line.

The small index, worked out by hand. The queries' recall vectors are (1, 0, 0) and (0, 1, 0), their re-rank vectors
(1, 0) and (0, 1), so that a cosine is a tile's own number:

====== ========================= =============== ==========
tile   recall                    re-rank         place
====== ========================= =============== ==========
t0     1, 0, 0                   0, 1            0, 0
t1     0.8, 0.6, 0                 0.6, 0.8          100, 0
t2     0.6, 0.8, 0                 1, 0            200, 0
t3     0, 1, 0                   0.28, 0.96        300, 0
t4     -1, 0, 0                  1, 0            400, 0
t5     0.96, 0.28, 0               0.8, 0.6          290, 90
====== ========================= =============== ==========
"""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from advice import commands_named
from PIL import Image
from small_world import save_untrained, set_words

from mindloc.cli import main
from mindloc.cli import search as search_command
from mindloc.config import config_to_dict, load_config
from mindloc.descriptors.reduction import load_reduction
from mindloc.descriptors.sets import load_descriptor_sets, make_rows, save_descriptor_set
from mindloc.inference.build import Source
from mindloc.inference.exported import ExportedEngine
from mindloc.runtime.checkpoint import Weights, load_weights, save_weights
from mindloc.search.answers import FEW
from mindloc.search.faiss_kinds import KINDS as FAISS_KINDS
from mindloc.search.faiss_kinds import FaissParameters

OMEGA = [[1, 0, 0], [0.8, 0.6, 0], [0.6, 0.8, 0], [0, 1, 0], [-1, 0, 0], [0.96, 0.28, 0]]
PHI = [[0, 1], [0.6, 0.8], [1, 0], [0.28, 0.96], [1, 0], [0.8, 0.6]]
PLACE = [[0, 0], [100, 0], [200, 0], [300, 0], [400, 0], [290, 90]]
TILES = [f"t{row}" for row in range(6)]

WITH_MILVUS = pytest.mark.skipif(importlib.util.find_spec("pymilvus") is None, reason="pymilvus is not installed")


def write_extraction(directory, omega, phi, names, place=None, view="satellite", unit="plane_m", **facts) -> str:
    """Write what extract writes for a two-stage encoder, or for a one-stage encoder if ``phi`` is None."""
    place_N2 = None if place is None else np.array(place, np.float64)
    bounds_N4 = None if place is None else np.hstack([place_N2 - 50, place_N2 + 50])
    rows = make_rows(names, place_N2, bounds_N4)
    card = {"view": view, "place_unit": None if place is None else unit, "checkpoint_sha256": "c" * 64, **facts}
    sets = {"global": omega} if phi is None else {"omega": omega, "phi": phi}
    for name, vectors in sets.items():
        own = {**card, "descriptor": name} | ({"nodes": 1} if name == "phi" else {})
        save_descriptor_set(directory if phi is None else directory / name, np.array(vectors, np.float32), rows, own)
    return str(directory)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with gallery/ and queries/, two-stage, and gallery_1/ and queries_1/, one-stage."""
    monkeypatch.chdir(tmp_path)
    for name, phi, query_phi in (("", PHI, np.eye(2)), ("_1", None, None)):
        write_extraction(tmp_path / f"gallery{name}", OMEGA, phi, TILES, PLACE)
        write_extraction(tmp_path / f"queries{name}", np.eye(3)[:2], query_phi, ["q0", "q1"], view="drone")
    return tmp_path


def save_nothing(path) -> None:
    """Save a checkpoint with a config but without weights; it is accepted until an encoder is built."""
    save_weights(path, {"weight": np.zeros(1, np.float32)}, config_to_dict(load_config()))


def run(*words: str) -> None:
    assert main([str(word) for word in words]) == 0


def search(*words: str, index: str = "tiles_index", queries: str = "queries") -> list[list[tuple]]:
    """(tile, score, place in stage one) of every answer of every query."""
    run("search", "--queries", queries, "--index", index, "--out", "answers.jsonl", *words)
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    return [[(a["tile"], round(a["score"], 5), a["recall_rank"]) for a in line["answers"]] for line in lines]


def says(capsys, *words: str) -> str:
    """The error line of a command that is refused."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    return error


# recalled four: t0 t5 t1 t2 and t3 t2 t1 t5; of those the cosines of re-rank vectors
FOUR = [
    [("t2", 1.0, 4), ("t5", 0.8, 2), ("t1", 0.6, 3), ("t0", 0.0, 1)],
    [("t3", 0.96, 1), ("t1", 0.8, 3), ("t5", 0.6, 4), ("t2", 0.0, 2)],
]


@pytest.mark.parametrize("kind", ["flat", "ivf_flat", "hnsw"])
def test_two_stages_by_hand(here, kind, capsys):
    run("index", "build", "gallery", "--index", "tiles_index", "--kind", kind)
    assert search("--top", "4", "--set", "search.recall_n=4") == FOUR
    table = capsys.readouterr().out
    assert [line.split() for line in table.splitlines()[-6:-3]] == [
        ["query", "first", "tile", "place", "score", "stage", "one"],
        ["q0", "t2", "200,", "0", "1.0000", "cosine", "4"],
        ["q1", "t3", "300,", "0", "0.9600", "cosine", "1"],
    ]
    assert "stage two changed the first tile of 1 of 2 queries" in table


@WITH_MILVUS
def test_milvus_gives_the_same_answers(here, capsys):
    run("index", "build", "gallery", "--index", "milvus:tiles.db")
    where = {"index": "milvus:tiles.db"}
    assert search("--top", "4", "--set", "search.recall_n=4", **where) == FOUR
    assert search("--box", "50,-10,350,10", "--set", "search.recall_n=5", **where)[0][0] == ("t2", 1.0, 2)
    run("index", "remove", "t2", "--index", "milvus:tiles.db")
    assert search("--top", "1", "--set", "search.recall_n=3", **where)[0] == [("t5", 0.8, 2)]
    run("index", "add", "gallery", "--index", "milvus:tiles.db")
    assert "6 tiles added, 5 of them replaced; 6 in all" in capsys.readouterr().out
    refused = says(capsys, "index", "build", "gallery", "--index", "milvus:tiles.db")
    assert "contains 6 tiles already" in refused
    (adding,) = commands_named(refused, DIRECTORY="gallery")
    assert adding[:2] == ["index", "add"]
    run(*adding)
    assert "--nlist is for an index in a directory" in says(
        capsys, "index", "build", "gallery", "--index", "milvus:tiles.db#other", "--nlist", "4"
    )


def test_one_stage_if_the_encoder_has_one_descriptor(here):
    run("index", "build", "gallery_1", "--index", "tiles_index")
    first, second = search("--top", "3", queries="queries_1")
    assert first == [("t0", 1.0, 1), ("t5", 0.96, 2), ("t1", 0.8, 3)]
    assert second == [("t3", 1.0, 1), ("t2", 0.8, 2), ("t1", 0.6, 3)]


def test_an_answer_states_place_and_bounds(here):
    run("index", "build", "gallery", "--index", "tiles_index")
    search("--top", "1")
    first = json.loads(Path("answers.jsonl").read_text().splitlines()[0])
    assert first["name"] == "q0"
    assert first["answers"][0]["place"] == [200, 0] and first["answers"][0]["bounds"] == [150, -50, 250, 50]


def test_a_box_a_circle_and_the_corner_between_them(here):
    run("index", "build", "gallery", "--index", "tiles_index")
    # in the box: t1 t2 t3, recalled in this order and re-ranked
    found = search("--box", "50,-10,350,10")[0]
    assert found == [("t2", 1.0, 2), ("t1", 0.6, 1), ("t3", 0.28, 3)]
    # t5 is in the box of the circle, but 127 m off; t1 is on the edge
    found = search("--near", "200,0", "--within_m", "100")[0]
    assert [name for name, _, _ in found] == ["t2", "t1", "t3"]
    assert search("--near", "200,0", "--within_m", "99")[0] == [("t2", 1.0, 2)]
    assert search("--near", "200,0", "--within_m", "128", "--top", "6")[0][1][0] == "t5"


def test_an_area_without_tiles_is_an_error(here, capsys):
    run("index", "build", "gallery", "--index", "tiles_index")
    words = ("search", "--queries", "queries", "--index", "tiles_index", "--out", "answers.jsonl")
    for where in (("--near=-900,-900", "--within_m", "5"), ("--box=-900,-900,-800,-800",)):
        assert "no tile is in the given area; give places as x, y in meters" in says(capsys, *words, *where)
    assert not (here / "answers.jsonl").exists()


def test_a_circle_in_degrees_is_round_on_the_ground(here):
    # at 60 degrees north 0.002 degrees of longitude are 111 m (half of a latitude's), 0.002 of latitude 222 m
    place = [[60, 10], [60, 10.002], [60.002, 10], [60, 10.004], [61, 10], [62, 10]]
    write_extraction(here / "degrees", OMEGA, PHI, TILES, place, unit="lat_lon_deg")
    run("index", "build", "degrees", "--index", "tiles_index")
    found = search("--near", "60,10", "--within_m", "150")[0]
    assert sorted(name for name, _, _ in found) == ["t0", "t1"]


def test_later_tiles_are_found_and_removed_ones_not(here, capsys):
    write_extraction(here / "more", [[1, 0, 0], [-0.6, 0, 0.8]], [[1, 0], [0, 1]], ["t0", "t6"], PLACE[:2])
    run("index", "build", "gallery", "--index", "tiles_index")
    run("index", "add", "more", "--index", "tiles_index")
    assert "2 tiles added, 1 of them replaced; 7 in all" in capsys.readouterr().out
    assert search("--top", "1", "--set", "search.recall_n=1")[0] == [("t0", 1.0, 1)]  # its new re-rank vector
    Path("gone.txt").write_text("t5\nt2\n")
    run("index", "remove", "t0", "--names_from", "gone.txt", "--index", "tiles_index")
    assert "3 tiles removed, 4 are left" in capsys.readouterr().out
    assert search("--top", "2", "--set", "search.recall_n=2")[0] == [("t1", 0.6, 1), ("t3", 0.28, 2)]
    capsys.readouterr()
    run("index", "info", "--index", "tiles_index")
    facts = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert (facts["count"], facts["kind"], facts["place_unit"]) == ("4", "flat", "plane_m")


def test_the_summary_of_many_queries(here, capsys):
    count = FEW + 1
    write_extraction(
        here / "many", np.eye(3)[[0] * count], np.eye(2)[[0] * count], map(str, range(count)), view="drone"
    )
    run("index", "build", "gallery", "--index", "tiles_index")
    assert len(search("--set", "search.recall_n=6", queries="many")) == count
    page = capsys.readouterr().out
    assert "21 queries, 21 of them answered" in page and "cosine of 21 first answers 1.000 to 1.000, median" in page
    assert "recall" in page.splitlines()[-2] and "rerank" in page.splitlines()[-2]


def test_consistency_reranks_the_first_answers_on_request(here, capsys):
    run("index", "build", "gallery", "--index", "tiles_index")
    found = search("--top", "4", "--set", "search.recall_n=4", "--set", "search.consistency_m=2")
    assert found == FOUR  # with one node the consistency is the cosine itself
    page = capsys.readouterr().out
    assert "1.0000 consistency" in page and "consistency" in page.splitlines()[-2]


def test_every_score_states_its_kind(here):
    run("index", "build", "gallery", "--index", "tiles_index")
    # in the box of the circle: t2 t5 t1 t3 in the order of stage two, the first two compared by nodes; t5 is dropped
    search("--near", "200,0", "--within_m", "100", "--set", "search.recall_n=6", "--set", "search.consistency_m=2")
    first = json.loads(Path("answers.jsonl").read_text().splitlines()[0])["answers"]
    found = [(answer["tile"], answer["score_of"]) for answer in first]
    assert found == [("t2", "consistency"), ("t1", "cosine"), ("t3", "cosine")]


def test_a_summary_keeps_scores_of_different_kinds_apart(here, capsys):
    """t5, outside the circle, is the one tile that is compared by nodes for half of the queries."""
    count = FEW + 2
    phi = np.tile([[0.8, 0.6], [0.28, 0.96]], (count // 2, 1))
    names = [f"q{row:02}" for row in range(count)]
    write_extraction(here / "many", np.tile([[1.0, 0, 0]], (count, 1)), phi, names, view="drone")
    run("index", "build", "gallery", "--index", "tiles_index")
    words = ("--near", "300,0", "--within_m", "90.2", *set_words({"search.recall_n": 6, "search.consistency_m": 1}))
    search(*words, queries="many")
    # in the box are t3 and t5, which is 90.6 m off; cosines with t3: 0.8 * 0.28 + 0.6 * 0.96 = 0.8, and 1
    page = capsys.readouterr().out
    assert f"consistency of {count // 2} first answers 1.000 to 1.000, median 1.000" in page
    assert f"cosine of {count // 2} first answers 0.800 to 0.800, median 0.800" in page


def test_reduced_vectors_of_tiles_and_queries(here, capsys):
    random = np.random.default_rng(0)
    # three directions contain nearly all variance of forty numbers
    basis = np.linalg.qr(random.standard_normal((40, 3)))[0]
    gallery = random.standard_normal((60, 3)) @ basis.T + 0.01 * random.standard_normal((60, 40))
    queries = gallery[:5] + 0.01 * random.standard_normal((5, 40))
    names = [f"tile {row}" for row in range(60)]
    write_extraction(here / "wide", gallery, random.standard_normal((60, 4)), names, np.zeros((60, 2)))
    write_extraction(here / "frames", queries, random.standard_normal((5, 4)), list("abcde"), view="drone")
    run("pca", "wide", "--dimension", "3", "--out", "omega_3.safetensors")
    page = capsys.readouterr().out
    assert "omega of 60 tiles: 40 numbers to 3" in page and "bytes per tile: 160 before, 12 after" in page
    run("index", "build", "wide", "--pca", "omega_3.safetensors", "--index", "tiles_index")
    run("index", "info", "--index", "tiles_index")
    digest = load_reduction("omega_3.safetensors").sha256
    assert f"reduction_sha256         {digest[:12]}" in capsys.readouterr().out
    found = search("--pca", "omega_3.safetensors", "--top", "1", "--set", "search.recall_n=1", queries="frames")
    assert [answers[0][0] for answers in found] == names[:5]
    words = ("search", "--queries", "frames", "--index", "tiles_index", "--out", "none.jsonl")
    assert f"with reduction {digest[:12]}, but the queries have reduction none" in says(capsys, *words)
    assert "has dimension 3, but these tiles have 40" in says(capsys, "index", "add", "wide", "--index", "tiles_index")
    write_extraction(here / "foreign", queries, None, list("abcde"), view="drone", checkpoint_sha256="d" * 64)
    words = ("search", "--queries", "foreign", "--pca", "omega_3.safetensors", "--index", "tiles_index", "--out", "x")
    assert "fitted to descriptors of checkpoint cccccccccccc, but these are of checkpoint dddddddddddd" in says(
        capsys, *words
    )
    assert sorted(path.name for path in here.glob("*.jsonl")) == ["answers.jsonl"]


def test_an_older_index_stays_when_the_new_one_can_not_be_built(here, capsys):
    run("index", "build", "gallery", "--index", "tiles_index")
    assert "needs as many tiles, but 6 were given" in says(
        capsys, "index", "build", "gallery", "--index", "tiles_index", "--kind", "ivf_pq"
    )
    assert search("--top", "4", "--set", "search.recall_n=4") == FOUR
    assert "contains omega, so it is not a tile index to replace" in says(
        capsys, "index", "build", "gallery", "--index", "gallery"
    )
    assert load_descriptor_sets("gallery")["omega"].count == 6


REFUSED_SEARCHES = [
    ("--queries queries --top 7", "--top is 7, but the index has 6 tiles; give 1 to 6"),
    ("--queries queries --top 0", "--top is 0, but the index has 6 tiles"),
    (
        "--queries queries --top 4 --set search.recall_n=3",
        "--top 4 exceeds search.recall_n; add --set search.recall_n=4",
    ),
    ("--queries queries --set model.backbone=tiny", "model.backbone can't be set here"),
    ("--queries queries --near 1,1", "go together; give both or none"),
    ("--queries queries --within_m 1", "go together; give both or none"),
    ("--queries queries --near 1,1 --within_m=-1", "give a distance in meters above 0"),
    ("--queries queries --box 5,5,1,1", "is upside down; its lowest corner comes first: 1,1,5,5"),
    ("--queries queries --checkpoint x", "--queries are encoded already; leave --checkpoint out"),
    ("--queries queries --engine onnx --tensorrt --precision fp16", "leave --engine, --precision, --tensorrt out"),
    ("--queries queries --dec_key_file x --view satellite", "leave --dec_key_file, --view out"),
    ("--queries queries --device_target CPU", "run.device_target can't be set here: --queries are encoded already"),
    ("--queries queries --set eval.batch_size=2", "eval.batch_size can't be set here: --queries are encoded already"),
    (
        "--queries queries/omega",
        "the queries have no phi; give the directory that extract wrote, with omega and phi",
    ),
    ("--queries queries --nprobe 2 --refine 2", "--nprobe, --refine means nothing to an index of kind flat"),
    ("--queries queries images", "give either a directory of images or --queries"),
    ("", "give either a directory of images or --queries"),
    ("images", "--checkpoint RUN is missing"),
    ("images --checkpoint nowhere.safetensors", "nowhere.safetensors is missing"),
    ("empty --checkpoint nowhere.safetensors", "empty has no image"),
    ("nowhere --checkpoint nowhere.safetensors", "nowhere is not a directory"),
    ("--queries nowhere", "descriptor set nowhere is missing"),
    ("--queries queries/phi", "queries/phi contains only phi; name the directory that extract wrote"),
    ("--queries queries --pca nowhere.safetensors", "nowhere.safetensors is missing"),
    ("--queries foreign", "built with checkpoint cccccccccccc, but the queries have checkpoint dddddddddddd"),
]


def test_the_commands_that_a_search_without_an_index_names(here, capsys):
    """Each makes what was missing, from nothing to answers."""
    searched = ["search", "--queries", "queries_1", "--index", "tiles_index", "--out", "answers.jsonl"]
    (here / "tiles_index").mkdir()
    (building,) = commands_named(says(capsys, *searched), DIRECTORY="gallery_1", PATH="tiles_index")
    run(*building)
    run("index", "remove", *TILES, "--index", "tiles_index")
    (adding,) = commands_named(says(capsys, *searched), DIRECTORY="gallery_1", PATH="tiles_index")
    run(*adding)
    run(*searched)
    rotated = np.eye(4)[:, :3]
    write_extraction(here / "wide", rotated, None, ["a", "b", "c", "d"])
    save_nothing(here / "weights.safetensors")
    refused = says(capsys, *searched, "--pca", "weights.safetensors")
    (fitting,) = commands_named(refused, DIRECTORY="wide", FILE="fitted.safetensors")
    run(*fitting, "--dimension", "2")
    assert load_reduction("fitted.safetensors").dimension == 2


def test_the_numbers_that_a_refused_search_names(here, capsys):
    run("index", "build", "gallery", "--index", "tiles_index")
    words = ("search", "--queries", "queries", "--index", "tiles_index", "--out", "answers.jsonl")
    assert len(search("--top", says(capsys, *words, "--top", "7").rpartition(" to ")[2])[0]) == 6
    few = ("--top", "4", "--set", "search.recall_n=3")
    option, setting = says(capsys, *words, *few).split()[-2:]
    assert search(*few, option, setting) == FOUR


@pytest.mark.parametrize(("words", "line"), REFUSED_SEARCHES, ids=[line for _, line in REFUSED_SEARCHES])
def test_an_invalid_search_is_one_line(here, words, line, capsys):
    run("index", "build", "gallery", "--index", "tiles_index")
    (here / "empty").mkdir()
    (here / "images").mkdir()
    (here / "images" / "a.png").write_bytes(b"")
    write_extraction(here / "foreign", np.eye(3)[:2], np.eye(2), ["q0", "q1"], view="drone", checkpoint_sha256="d" * 64)
    before = sorted(here.rglob("*"))
    assert line in says(capsys, "search", *words.split(), "--index", "tiles_index", "--out", "answers.jsonl")
    assert sorted(here.rglob("*")) == before


def test_an_index_without_places_or_whole_files_is_refused(here, capsys):
    write_extraction(here / "nowhere_known", OMEGA, PHI, TILES)
    run("index", "build", "nowhere_known", "--index", "tiles_index")
    assert "extract --places reads them from the tiles' names" in capsys.readouterr().out
    words = ("search", "--queries", "queries", "--out", "answers.jsonl", "--index")
    assert "index has no places of its tiles" in says(capsys, *words, "tiles_index", "--box", "0,0,1,1")
    vectors = here / "tiles_index" / "vectors.faiss"
    vectors.write_bytes(vectors.read_bytes()[:-8])
    assert "vectors.faiss has" in says(capsys, *words, "tiles_index")
    assert "tile index nowhere is missing" in says(capsys, *words, "nowhere")
    run("index", "build", "gallery_1", "--index", "index_1")
    assert "but the index has no re-rank vectors" in says(capsys, *words, "index_1", "--set", "search.consistency_m=2")
    run("index", "remove", *TILES, "--index", "index_1")
    assert "the index contains no tiles" in says(capsys, *words, "index_1")
    assert not (here / "answers.jsonl").exists()


def test_a_position_out_of_range_in_degrees_is_refused(here, capsys):
    write_extraction(here / "degrees", OMEGA, PHI, TILES, np.full((6, 2), 60.0), unit="lat_lon_deg")
    run("index", "build", "degrees", "--index", "tiles_index")
    words = ("search", "--queries", "queries", "--index", "tiles_index", "--out", "answers.jsonl", "--within_m", "9")
    assert "119.4,31.7 is not a place in degrees" in says(capsys, *words, "--near", "119.4,31.7")
    assert "no tile is in" in says(capsys, *words, "--near", "31.7,119.4")


def test_what_index_refuses(here, capsys):
    run("index", "build", "gallery", "--index", "tiles_index")
    write_extraction(here / "foreign", OMEGA, PHI, TILES, PLACE, checkpoint_sha256="d" * 64)
    refused = "has checkpoint_sha256 cccccccccccc, but these tiles have dddddddddddd"
    assert refused in says(capsys, "index", "add", "foreign", "--index", "tiles_index")
    assert "tile t9 is not in the index" in says(capsys, "index", "remove", "t1", "t9", "--index", "tiles_index")
    assert "no tile was named" in says(capsys, "index", "remove", "--index", "tiles_index")
    assert "names.txt can't be read" in says(
        capsys, "index", "remove", "--names_from", "names.txt", "--index", "tiles_index"
    )
    assert "descriptor set nowhere is missing" in says(capsys, "index", "build", "nowhere", "--index", "other")
    assert "tile index other is missing" in says(capsys, "index", "add", "gallery", "--index", "other")
    assert search("--top", "4", "--set", "search.recall_n=4") == FOUR
    assert not (here / "other").exists()


def test_what_pca_refuses(here, capsys):
    assert "can be reduced to 1 to 3 numbers, not 4" in says(
        capsys, "pca", "gallery", "--dimension", "4", "--out", "x.safetensors"
    )
    assert "name a file that ends in .safetensors" in says(capsys, "pca", "gallery", "--out", "x")
    write_extraction(here / "reduced", OMEGA, PHI, TILES, reduction_sha256="f" * 64)
    for words in (("pca", "--dimension", "2", "--out"), ("index", "build", "--index", "tiles_index", "--pca")):
        assert "was reduced when it was extracted" in says(capsys, *words, "x.safetensors", "reduced")
    assert not (here / "x.safetensors").exists() and not (here / "tiles_index").exists()


def test_no_option_is_ignored_by_the_kind(here, capsys):
    words = ("index", "build", "gallery", "--index", "tiles_index", "--kind")
    for kind, option in (("flat", "nprobe"), ("ivf_flat", "refine"), ("hnsw", "nlist"), ("ivf_pq", "links")):
        refused = f"--{option} means nothing to an index of kind {kind}"
        assert refused in says(capsys, *words, kind, f"--{option}", "4")
    assert "--nlist, --seed means nothing to an index of kind flat" in says(
        capsys, *words, "flat", "--seed", "0", "--nlist", "1"
    )
    assert not (here / "tiles_index").exists()
    run(*words, "hnsw", "--links", "4", "--ef_construction", "9", "--ef_search", "8")
    run(*words, "ivf_flat", "--nlist", "2", "--nprobe", "1", "--train_rows", "6", "--seed", "1")


def test_every_parameter_is_read_by_some_kind_and_described_in_the_help(capsys):
    assert main(["index", "build", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for parameter in dataclasses.fields(FaissParameters):
        assert any(parameter.name in kind.reads for kind in FAISS_KINDS.values())
        help_of_one = page.rpartition(f"--{parameter.name} N")[2].partition(" --")[0].removesuffix(" -h,")
        assert help_of_one.endswith(f"default: {parameter.metadata['auto'] or parameter.default}")


def test_search_parameters_may_differ_from_those_of_the_build(here, capsys):
    # two lists, around 5 and 85 degrees; a query at 44 degrees is 34 off 10 and 36 off 80, which is in the other list
    angle = np.radians([[0], [10], [80], [90], [44]])
    circle = np.hstack([np.cos(angle), np.sin(angle)])
    write_extraction(here / "halves", circle[:4], None, ["0", "10", "80", "90"], np.zeros((4, 2)))
    write_extraction(here / "between", circle[4:], None, ["q"], view="drone")

    def found(*words: str) -> list[str]:
        return [name for name, _, _ in search("--top", "2", *words, queries="between")[0]]

    run("index", "build", "halves", "--index", "tiles_index", "--kind", "ivf_flat", "--nlist", "2", "--nprobe", "1")
    assert found() == ["10", "0"]
    assert found("--nprobe", "2") == ["10", "80"]
    words = ("search", "--queries", "between", "--index", "tiles_index", "--out", "none.jsonl")
    assert "--nprobe is 0; give 1 to" in says(capsys, *words, "--nprobe", "0")
    assert "--ef_search means nothing to an index of kind ivf_flat" in says(capsys, *words, "--ef_search", "9")


def test_an_index_without_whole_vectors_is_not_refined(here, capsys):
    random = np.random.default_rng(0)
    names = [f"tile {row}" for row in range(256)]
    write_extraction(here / "many", random.standard_normal((256, 4)), None, names, np.zeros((256, 2)))
    write_extraction(here / "frames", random.standard_normal((1, 4)), None, ["q"], view="drone")
    build = ("index", "build", "many", "--index", "tiles_index", "--kind", "ivf_pq", "--nlist", "1")
    words = ("search", "--queries", "frames", "--index", "tiles_index", "--out", "answers.jsonl", "--refine", "4")
    run(*build)
    assert "index has no whole vectors to refine with; build it with --refine" in says(capsys, *words)
    run(*build, "--refine", "1")
    run(*words)


def test_a_mismatch_with_the_index_is_found_before_a_device_starts(here, capsys):
    save_nothing(here / "weights.safetensors")
    origin = {"checkpoint_sha256": load_weights(here / "weights.safetensors").sha256}
    random = np.random.default_rng(0)
    write_extraction(here / "wide", random.standard_normal((9, 5)), None, list("abcdefghi"), np.zeros((9, 2)), **origin)
    run("pca", "wide", "--dimension", "2", "--out", "omega_2.safetensors")
    origin["reduction_sha256"] = load_reduction("omega_2.safetensors").sha256
    write_extraction(here / "forged", OMEGA, None, TILES, PLACE, **origin)
    run("index", "build", "forged", "--index", "tiles_index")
    (here / "images").mkdir()
    Image.new("RGB", (8, 8)).save(here / "images" / "a.png")
    words = (
        "search",
        "images",
        "--checkpoint",
        "weights.safetensors",
        "--index",
        "tiles_index",
        "--out",
        "answers.jsonl",
    )
    refused = says(capsys, *words, "--pca", "omega_2.safetensors")
    assert "built with width 3, but the queries have width 2" in refused
    del origin["reduction_sha256"]
    write_extraction(here / "one", OMEGA, None, TILES, PLACE, **origin)
    run("index", "build", "one", "--index", "tiles_index")
    assert "is upside down" in says(capsys, *words, "--box", "5,5,1,1")
    write_extraction(here / "two", OMEGA, PHI, TILES, PLACE, **origin)
    run("index", "build", "two", "--index", "tiles_index")
    assert "the queries have no phi; encode them with the checkpoint" in says(capsys, *words)
    assert not (here / "none.jsonl").exists()


def test_the_agreement_of_int8_is_printed_before_the_answers(here, monkeypatch, capsys):
    config = load_config()

    class Engine:
        batch_size, descriptors, facts = 2, ("global",), {"precision": "fp32"}

        def encode(self, batch):
            return {f"{side}.global": np.tile(np.float32([[1, 0, 0]]), (len(rows), 1)) for side, rows in batch.items()}

    class Int8Engine(ExportedEngine):
        batch_size, descriptors, precision, facts, exact = 2, ("global",), "int8", {}, Engine

        def __init__(self):
            pass

        def encode(self, batch):
            return {name: rows + np.float32([0, 1, 0]) for name, rows in Engine().encode(batch).items()}

    weights = Weights(Path("none"), {}, config_to_dict(config), "c" * 64)
    monkeypatch.setattr(search_command, "read_source", lambda request, sides, view: Source(config, sides, weights, {}))
    engines = {"int8": Int8Engine, None: Engine}
    monkeypatch.setattr(search_command, "start_engine", lambda request, *_: engines[request.precision]())
    run("index", "build", "gallery_1", "--index", "tiles_index")
    (here / "images").mkdir()
    Image.new("RGB", (40, 30)).save(here / "images" / "a.png")
    words = ("search", "images", "--exported", "encoder.onnx", "--engine", "onnx")
    words += ("--index", "tiles_index", "--out", "a")
    run(*words, "--precision", "int8")
    agreement = "agreement of int8 with fp32: cosine 0.707107 at least, 0.707107 on average"  # 45 degrees
    assert agreement in capsys.readouterr().out
    run(*words)
    assert "agreement" not in capsys.readouterr().out


def test_queries_that_are_encoded_need_no_mindspore(here):
    run("index", "build", "gallery", "--index", "tiles_index")
    words = ["search", "--queries", "queries", "--index", "tiles_index", "--out", "answers.jsonl"]
    code = f"import sys; from mindloc.cli import main; main({words}); sys.exit('mindspore' in sys.modules)"
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(source)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(Path("answers.jsonl").read_text().splitlines()) == 2


def test_places_need_names_of_tiles_and_corners_of_maps(here, capsys):
    checkpoint = here / "weights.safetensors"
    save_nothing(checkpoint)
    (here / "tiles").mkdir()
    Image.new("RGB", (8, 8)).save(here / "tiles" / "03_1_000_000.png")
    words = ("extract", "tiles", "--checkpoint", checkpoint, "--places", "--out", "set")
    assert "satellite_coordinates_range.csv is missing" in says(capsys, *words, "--set", "data.reader=visloc")
    assert "drone images are not tiles" in says(capsys, *words, "--view", "drone")
    shutil.copy(here / "tiles" / "03_1_000_000.png", here / "tiles" / "picnic.png")
    assert "tile name is 'picnic.png'; expected {zoom}" in says(capsys, *words)
    assert not (here / "set").exists()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated world with its untrained two-stage encoder, tiles and drone images extracted, and a reduction."""
    directory = tmp_path_factory.mktemp("world")
    words = "--seed 3 --map_px 512 --zooms 3 --tile_size_px 32 --drone_size_px 32 48 --flights 1 --drones 10"
    run("world", directory / "data", *words.split())
    checkpoint = directory / "run" / "checkpoints" / "weights.safetensors"
    settings = {"head.name": "two_stage", "head.channels": 8, "head.nodes": 2, "data.map_px": 512, "eval.batch_size": 8}
    save_untrained(checkpoint, **settings)
    extract = ("--checkpoint", checkpoint, "--device_target", "CPU", "--out")
    run("extract", directory / "data/satellite", "--places", *extract, directory / "gallery")
    run("extract", directory / "data/drone/images", "--view", "drone", *extract, directory / "queries")
    run("pca", directory / "gallery", "--dimension", "8", "--out", directory / "omega_8.safetensors")
    return directory


def test_tiles_of_a_world_have_places_and_bounds(world):
    rows = {row["name"]: row for row in load_descriptor_sets(world / "gallery")["omega"].rows}
    # zoom 3 of 512 px at 0.3 m: 19.2 m a side; 3_128_1_0 starts half a side further
    assert rows["3_0_2_1.png"]["bounds"] == pytest.approx([38.4, 19.2, 57.6, 38.4])
    assert rows["3_128_1_0.png"]["place"] == pytest.approx([2 * 19.2, 19.2])
    assert load_descriptor_sets(world / "gallery")["phi"].card["place_unit"] == "plane_m"


def unit(row_ND: np.ndarray) -> np.ndarray:
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def test_images_get_the_answers_of_the_definition(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    pca = ("--pca", "omega_8.safetensors")
    run("index", "build", "gallery", *pca, "--index", "tiles_index")
    words = ("--checkpoint", "run/checkpoints/weights.safetensors", "--device_target", "CPU", *pca)
    words += (*set_words({"search.recall_n": 12}), "--top", "4", "--index", "tiles_index", "--out", "answers.jsonl")
    run("search", "data/drone/images", *words)
    assert "encode" in capsys.readouterr().out
    gallery, queries = load_descriptor_sets("gallery"), load_descriptor_sets("queries")
    project = load_reduction("omega_8.safetensors").project
    recall_QN = project(queries["omega"].descriptor_ND) @ project(gallery["omega"].descriptor_ND).T
    rerank_QN = unit(queries["phi"].descriptor_ND) @ unit(gallery["phi"].descriptor_ND).T
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == queries["omega"].names and len(lines) == 10
    for line, recall_N, rerank_N in zip(lines, recall_QN, rerank_QN, strict=True):
        recalled = np.argsort(-recall_N)[:12]
        best = recalled[np.argsort(-rerank_N[recalled])][:4]
        scores = [answer["score"] for answer in line["answers"]]
        np.testing.assert_allclose(scores, rerank_N[best], atol=1e-5)
        for answer, row in zip(line["answers"], best, strict=True):
            own = gallery["omega"].names.index(answer["tile"])
            assert rerank_N[own] == pytest.approx(rerank_N[row], abs=1e-5)  # another one only where they tie
            assert answer["recall_rank"] == list(recalled).index(own) + 1
            assert answer["place"] == gallery["omega"].rows[own]["place"]


def with_broken_images(directory, world) -> Path:
    """Three drone images, one file of text and one image whose data are damaged."""
    images = directory / "images"
    images.mkdir()
    good = sorted((world / "data/drone/images").iterdir())[:3]
    for path in good:
        shutil.copy(path, images / path.name)
    (images / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save(images / "damaged.png")
    data = bytearray((images / "damaged.png").read_bytes())
    data[-20] ^= 1
    (images / "damaged.png").write_bytes(data)
    (images / "._damaged.png").write_bytes(b"of macOS")
    return images


@pytest.mark.parametrize(("on_bad_image", "code"), [(None, 1), ("skip", 0), ("stop", 2)])
def test_a_search_answers_the_rest_and_names_the_broken_images(
    world, tmp_path, monkeypatch, capsys, on_bad_image, code
):
    monkeypatch.chdir(tmp_path)
    images = with_broken_images(tmp_path, world)
    run("index", "build", world / "gallery", "--index", "tiles_index")
    words = ["--checkpoint", world / "run/checkpoints/weights.safetensors", "--device_target", "CPU"]
    words += ["--index", "tiles_index", "--out", "answers.jsonl"]
    words += ["--set", f"data.on_bad_image={on_bad_image}"] if on_bad_image else []
    capsys.readouterr()
    assert main([str(word) for word in ("search", "images", *words)]) == code
    said = capsys.readouterr()
    assert "passed over: hidden files (1)" in said.out
    if on_bad_image == "stop":
        assert "image images/broken.png is not JPEG" in said.err and not Path("answers.jsonl").exists()
        assert "device:" not in said.out  # refused before
        return
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [
        path.name for path in sorted(images.iterdir()) if path.name[0].isdigit()
    ]
    assert "left out: 2 of 5 images, which can't be read" in said.out
    assert "images/broken.png is not JPEG" in said.out and "images/damaged.png is damaged" in said.out


def test_an_extraction_stops_at_a_broken_image_or_leaves_it_out(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = with_broken_images(tmp_path, world)
    words = ["extract", "images", "--view", "drone", "--device_target", "CPU", "--out", "set"]
    words += ["--checkpoint", world / "run/checkpoints/weights.safetensors"]
    assert "images/broken.png is not JPEG" in says(capsys, *words)
    (images / "broken.png").unlink()
    refused = says(capsys, *words)
    assert "images/damaged.png is damaged" in refused
    assert not [path for path in Path("set").rglob("*") if not path.name.startswith(".")]
    run(*words, *refused.split()[-2:])  # the way out that is named
    assert "left out: 1 of 4 images, which can't be read" in capsys.readouterr().out
    sets = load_descriptor_sets("set")
    expected = load_descriptor_sets(world / "queries")
    for name, found in sets.items():
        rows = [expected[name].names.index(image) for image in found.names]
        assert len(rows) == 3
        np.testing.assert_allclose(found.descriptor_ND, expected[name].descriptor_ND[rows], atol=1e-5)


def test_the_extraction_that_a_missing_set_names(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    build = ("index", "build", "the tiles", "--index", "tiles_index")
    known = {"IMAGES": world / "data/satellite", "RUN": world / "run/checkpoints/weights.safetensors"}
    (extraction,) = commands_named(says(capsys, *build), **known)
    run(*extraction, "--device_target", "CPU")
    run(*build)


BEFORE_AN_ENGINE = {  # a command with its arguments, what is refused
    "an image's header": ("extract images --out set", "images/broken.png"),
    "the images of a search": (
        "search images --index tiles_index --out a.jsonl --set data.on_bad_image=stop",
        "broken",
    ),
    "an image of a data set": ("eval --set data.root={bad}", "bad/drone"),
    "an image of a data set that is missing": ("eval --set data.root={missing}", "missing/drone"),
    "the place of descriptors": ("extract {data}/satellite --out images", "broken.png"),
    "the place of a report": ("eval --set data.root={data} --out images", "images"),
    "the place of answers": ("search {data}/satellite --index tiles_index --out images", "images"),
    "an index": ("search {data}/satellite --index images --out a.jsonl", "no tile index"),
    "an index of another encoder": ("search {data}/satellite --index other --out a.jsonl", "built with"),
    "the number of answers": ("search {data}/satellite --index tiles_index --out a.jsonl --top 999", "--top"),
    "the view": ("search {data}/satellite --index tiles_index --out a.jsonl --view infrared", "infrared"),
    "a reduction": ("extract {data}/satellite --out set --pca images/broken.png", "broken.png"),
}


@pytest.mark.parametrize("name", BEFORE_AN_ENGINE)
def test_what_can_be_refused_is_refused_before_an_engine_starts(world, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)

    def start(*_, **__):
        raise AssertionError("the engine was started")

    for module in ("mindloc.cli.search", "mindloc.api"):
        monkeypatch.setattr(f"{module}.start_engine", start)
    run("index", "build", world / "gallery", "--index", "tiles_index")
    write_extraction(tmp_path / "foreign", OMEGA, PHI, TILES, PLACE)
    run("index", "build", "foreign", "--index", "other")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    for bad in ("bad", "missing"):
        shutil.copytree(world / "data", tmp_path / bad)
        shutil.rmtree(tmp_path / bad / "drone")
    shutil.copytree(world / "data" / "drone", tmp_path / "bad" / "drone")
    for image in (tmp_path / "bad" / "drone" / "images").iterdir():
        image.write_bytes(b"broken")
    words, expected = BEFORE_AN_ENGINE[name]
    words = words.format(data=world / "data", bad=tmp_path / "bad", missing=tmp_path / "missing").split()
    assert expected in says(capsys, *words, "--checkpoint", world / "run/checkpoints/weights.safetensors")


def test_an_output_directory_with_other_files_is_refused_before_a_device_starts(world, tmp_path, capsys):
    (tmp_path / "omega").mkdir()
    (tmp_path / "omega" / "mine.txt").write_text("")
    words = ["extract", world / "data/satellite", "--checkpoint", world / "run/checkpoints/weights.safetensors"]
    assert "contains mine.txt, so it is not a descriptor set" in says(capsys, *words, "--out", tmp_path)


def test_tiles_of_two_directories_at_one_place_are_reported(world, tmp_path, capsys):
    for area in ("area1", "area2"):
        (tmp_path / area).mkdir()
        for name in ("3_0_0_0.png", "3_0_1_0.png"):
            shutil.copy(world / "data/satellite" / name, tmp_path / area / name)
    words = [
        "extract",
        tmp_path,
        "--checkpoint",
        world / "run/checkpoints/weights.safetensors",
        "--device_target",
        "CPU",
    ]
    run(*words, "--places", "--out", tmp_path / "set")
    assert "; 2 at the same place as another: extract each area separately" in capsys.readouterr().out
    names = ["area1/3_0_0_0.png", "area1/3_0_1_0.png", "area2/3_0_0_0.png", "area2/3_0_1_0.png"]
    assert load_descriptor_sets(tmp_path / "set")["omega"].names == names


def test_only_broken_images_give_no_answers(world, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    run("index", "build", world / "gallery", "--index", "tiles_index")
    words = ("--checkpoint", world / "run/checkpoints/weights.safetensors", "--device_target", "CPU")
    words += ("--index", "tiles_index", "--out", "answers.jsonl")
    assert "broken.png" in says(capsys, "search", "images", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "tiles_index"]


def test_reducing_while_extracting_is_reducing_while_building(world, monkeypatch):
    monkeypatch.chdir(world)
    extract = ("--checkpoint", "run/checkpoints/weights.safetensors", "--device_target", "CPU", "--places")
    pca = ("--pca", "omega_8.safetensors")
    run("extract", "data/satellite", *extract, *pca, "--out", "reduced")
    shutil.rmtree("tiles_index", ignore_errors=True)
    run("index", "build", "gallery", *pca, "--index", "tiles_index")
    run("index", "add", "reduced", "--index", "tiles_index")  # the very same card
    reduced = load_descriptor_sets("reduced")
    expected = load_reduction("omega_8.safetensors").project(load_descriptor_sets("gallery")["omega"].descriptor_ND)
    np.testing.assert_allclose(reduced["omega"].descriptor_ND, expected, atol=1e-5)


def test_a_reduction_of_another_checkpoint_is_refused_before_a_device_starts(world, monkeypatch, capsys):
    monkeypatch.chdir(world)
    save_nothing(world / "other.safetensors")
    capsys.readouterr()
    words = ("extract", "data/satellite", "--checkpoint", "other.safetensors", "--out", "foreign")
    assert main([*words, "--pca", "omega_8.safetensors"]) == 2
    printed = capsys.readouterr()
    assert "the reduction was fitted to descriptors of checkpoint" in printed.err and printed.out == ""
