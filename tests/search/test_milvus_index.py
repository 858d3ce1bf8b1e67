"""Tile indexes in Milvus, on milvus-lite: answers equal NumPy and FAISS; kills, names, cards, every error line."""

import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent import futures
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mindloc.errors import DeviceError, TileIndexError
from mindloc.runtime.packages import optional_module
from mindloc.search import milvus_index
from mindloc.search.build import open_index
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.index import Box, IndexCard, TileFacts, Tiles
from mindloc.search.milvus_collection import TOKEN_VARIABLE, parse_address
from mindloc.search.milvus_index import create_milvus_index, open_milvus_index
from mindloc.search.two_stage import two_stage_search

if importlib.util.find_spec("pymilvus") is None:
    pytest.skip("pymilvus is not installed: pip install -r requirements-milvus.txt", allow_module_level=True)

D, E = 32, 24
CARD = IndexCard("milvus", "omega", D, E, 4, "plane_m", "a" * 64, None)
RECALL_ONLY = IndexCard("milvus", "global", D, None, None, None, "a" * 64, None)
NASTY_NAMES = [
    "it's",
    'a "quoted" one',
    "back\\slash",
    "\\",
    '\\"',
    "a,b",
    "line\nfeed\r\ttab",
    "\\n",
    "日本/語 é.png",
    '"] or name != "',
    "{x} %s $y",
    "\x01",
    " ",
]


def make_tiles(count: int, seed: int = 0, rerank: bool = True) -> Tiles:
    random = np.random.default_rng(seed)
    place_N2 = random.uniform(-100, 100, (count, 2))
    place_N2[::7] = np.nan
    return Tiles(
        names=[f"satellite/{row}.png" for row in range(count)],
        recall_ND=random.standard_normal((count, D), np.float32),
        rerank_NE=random.standard_normal((count, E), np.float32) if rerank else None,
        place_N2=place_N2,
        bounds_N4=np.hstack([place_N2 - 1, place_N2 + 1]),
    )


def named(names: list[str]) -> Tiles:
    tiles = make_tiles(len(names))
    return Tiles(names, tiles.recall_ND, tiles.rerank_NE, tiles.place_N2, tiles.bounds_N4)


def unit(row_ND: np.ndarray) -> np.ndarray:
    row_ND = row_ND.astype(np.float64)
    return row_ND / np.linalg.norm(row_ND, axis=1, keepdims=True)


def run_child(program: str, *arguments: str, fault: str = "") -> subprocess.CompletedProcess:
    """Run a program in a process in which the names of this file are defined."""
    head = f"import sys; sys.path[:0] = ['src', {str(Path(__file__).parent)!r}]\nfrom test_milvus_index import *\n"
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "MINDLOC_FAULT": fault},
    )


@pytest.fixture(scope="module")
def tiles():
    return make_tiles(5000)


@pytest.fixture(scope="module")
def index(tiles, tmp_path_factory):
    index = create_milvus_index(f"milvus:{tmp_path_factory.mktemp('milvus')}/tiles.db", CARD)
    index.add(tiles)
    yield index
    index.close()


@pytest.fixture(scope="module")
def faiss_index(tiles):
    return build_faiss_index(replace(CARD, kind="flat"), tiles)


@pytest.fixture
def address(tmp_path):
    return f"milvus:{tmp_path}/tiles.db"


@pytest.fixture
def small(address):
    index = create_milvus_index(address, CARD)
    yield index
    index.close()


# ----- answers -----


def test_milvus_numpy_and_faiss_answer_alike(index, faiss_index, tiles):
    query_QD = np.random.default_rng(1).standard_normal((20, D)).astype(np.float32)
    score_QN = unit(query_QD) @ unit(tiles.recall_ND).T
    best_QK = np.argsort(-score_QN, axis=1)[:, :10]
    hits = index.recall(query_QD, 10)
    assert hits.names == [[tiles.names[row] for row in best_K] for best_K in best_QK]
    assert hits.names == faiss_index.recall(query_QD, 10).names
    np.testing.assert_allclose(hits.scores, np.take_along_axis(score_QN, best_QK, axis=1), atol=1e-6)


@pytest.mark.parametrize("box", [Box((-40.5, 0.0), (60.25, 99.0)), Box((-np.inf, 0.0), (np.inf, np.inf))])
def test_a_box_contains_the_tiles_whose_place_is_in_it(index, tiles, box):
    inside = np.all((tiles.place_N2 >= box.low) & (tiles.place_N2 <= box.high), axis=1)  # False where a place is NaN
    query_QD = np.random.default_rng(2).standard_normal((2, D))
    score_QN = np.where(inside, unit(query_QD) @ unit(tiles.recall_ND).T, -np.inf)
    assert index.recall(query_QD, 50, box).names == [
        [tiles.names[row] for row in np.argsort(-score_N)[:50]] for score_N in score_QN
    ]


def test_the_edges_of_a_box_are_inside_and_a_small_box_gives_fewer(index, tiles):
    place = tuple(tiles.place_N2[1].tolist())
    assert index.recall(tiles.recall_ND[:2], 10, Box(place, place)).names == [[tiles.names[1]]] * 2
    assert index.recall(tiles.recall_ND[:1], 10, Box((200.0, 200.0), (201.0, 201.0))).names == [[]]


def test_reranking_sorts_each_querys_own_tiles(index, faiss_index, tiles):
    random = np.random.default_rng(3)
    query_QE = random.standard_normal((3, E))
    own_QN = [random.choice(5000, count, replace=False) for count in (100, 40, 5)]
    own_names = [[tiles.names[row] for row in own_N] for own_N in own_QN]
    hits = index.rerank(query_QE, own_names, 10)
    for query, own_N in enumerate(own_QN):
        score_N = unit(tiles.rerank_NE[own_N]) @ unit(query_QE)[query]
        best = np.argsort(-score_N)[:10]
        assert hits.names[query] == [own_names[query][place] for place in best]
        np.testing.assert_allclose(hits.scores[query], score_N[best], atol=1e-6)
    assert hits.names == faiss_index.rerank(query_QE, own_names, 10).names


def test_equal_tiles_are_in_the_order_of_their_names_or_of_stage_one(small):
    names = [f"tile_{number}" for number in np.random.default_rng(0).permutation(20)]
    small.add(replace(named(names), recall_ND=np.ones((20, D)), rerank_NE=np.ones((20, E))))
    assert small.recall(np.ones((2, D)), 20).names == [sorted(names)] * 2
    assert small.rerank(np.ones((1, E)), [names], 20).names == [names]


@pytest.mark.parametrize("box", [None, Box((-50.0, -50.0), (0.0, 0.0))])
def test_a_search_in_stages_is_that_of_faiss(index, faiss_index, box):
    random = np.random.default_rng(4)
    queries = random.standard_normal((5, D)), random.standard_normal((5, E))
    ours, theirs = (two_stage_search(one, *queries, n=100, k=20, m=10, where=box) for one in (index, faiss_index))
    assert ours.names == theirs.names
    np.testing.assert_array_equal(ours.recall_rank, theirs.recall_rank)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)


def test_rerank_vectors_and_facts_are_in_the_requested_order(index, tiles):
    rows = [4321, 0, 7, 4321]
    names = [tiles.names[row] for row in rows]
    np.testing.assert_allclose(index.rerank_vectors(names), unit(tiles.rerank_NE[rows]), atol=1e-6)
    known = TileFacts(names[0], tuple(tiles.place_N2[4321].tolist()), tuple(tiles.bounds_N4[4321].tolist()))
    unknown = [TileFacts(name, None, None) for name in names[1:3]]  # rows 0 and 7: every seventh place is NaN
    assert index.facts(names) == [known, *unknown, known]


def test_statistics_count_tiles_and_bytes(index):
    numbers = index.statistics()
    assert numbers["count"] == 5000
    assert (numbers["bytes_per_vector"], numbers["bytes_per_rerank_vector"]) == (4 * D, 4 * E)
    assert numbers["bytes_on_disk"] > 5000 * 4 * (D + E)  # random numbers can't be packed


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat"])
def test_other_kinds_find_a_tile_by_its_own_vector(address, kind):
    tiles = make_tiles(500, rerank=False)
    index = create_milvus_index(address, RECALL_ONLY, kind)
    tiles.place_N2[:], tiles.bounds_N4[:] = np.nan, np.nan  # the card has no place_unit
    index.add(tiles)
    index.close()
    index = open_milvus_index(address)
    assert index.statistics()["index"] == kind
    assert [names[0] for names in index.recall(tiles.recall_ND[:50], 5).names] == tiles.names[:50]
    index.close()


@pytest.mark.parametrize("kind", ["hnsw", "ivf_flat"])
def test_a_query_with_too_few_answers_is_searched_again_with_all_effort(address, monkeypatch, kind):
    index, tiles, searches = create_milvus_index(address, CARD, kind), make_tiles(200), []
    index.add(tiles)
    search = index._search

    def lazy(field, query_QD, k, chosen, parameters):
        """In its first call, finds only one answer to the second query."""
        searches.append((len(query_QD), parameters))
        hits = search(field, query_QD, k, chosen, parameters)
        if len(searches) == 1:
            hits.names[1], hits.scores[1] = hits.names[1][:1], hits.scores[1][:1]
        return hits

    monkeypatch.setattr(index, "_search", lazy)
    box = Box((-100.0, -100.0), (100.0, 100.0))
    found = index.recall(tiles.recall_ND[1:4], 9, box)
    assert [len(names) for names in found.names] == [len(score_K) for score_K in found.scores] == [9, 9, 9]
    assert [names[0] for names in found.names] == tiles.names[1:4]
    # 32 768 is the most candidates that Milvus accepts, 1024 is the number of all lists
    assert searches[1:] == [(1, {"ef": 32_768} if kind == "hnsw" else {"nprobe": 1024})]
    index.close()


# ----- changes -----


def test_repeating_a_killed_add_leaves_each_tile_once(address):
    """The first attempt adds different vectors: the second must replace what the first left behind."""
    run = run_child(
        """
        milvus_index._MOST_ROWS = 50
        create_milvus_index(sys.argv[1], CARD).add(make_tiles(200, seed=8))
        """,
        address,
        fault="milvus.mid_add:3",  # between two messages to Milvus
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    index, tiles = open_milvus_index(address), make_tiles(200, seed=9)
    assert index.count == 100  # two messages of 50 before the third
    index.add(tiles)
    assert index.count == 200
    np.testing.assert_allclose(index.rerank_vectors(tiles.names), unit(tiles.rerank_NE), atol=1e-6)
    assert index.recall(tiles.recall_ND[90:110], 1).names == [[name] for name in tiles.names[90:110]]
    assert sorted(index.recall(tiles.recall_ND[:1], 200).names[0]) == sorted(tiles.names)
    index.close()


def test_a_killed_creation_can_be_repeated(address):
    """Killed between collection and index: the second attempt creates what is missing."""
    run = run_child(
        """
        from mindloc.search import milvus_collection
        milvus_collection._create_missing_indexes = lambda *parts: os.kill(os.getpid(), signal.SIGKILL)
        create_milvus_index(sys.argv[1], CARD)
        """,
        address,
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    index, tiles = create_milvus_index(address, CARD), make_tiles(3)
    index.add(tiles)
    assert index.recall(tiles.recall_ND[:1], 1).names == [tiles.names[:1]]
    index.close()


def test_an_index_can_be_saved_only_at_its_own_address(small, address, tmp_path):
    small.add(make_tiles(3))
    small.save(address)
    with pytest.raises(TileIndexError, match="can't be saved elsewhere; build a new one at"):
        small.save(f"milvus:{tmp_path}/other.db")


def test_a_tile_added_again_replaces_the_older_one(small):
    small.add(make_tiles(10))
    newer = make_tiles(3, seed=1)
    small.add(newer)
    assert small.count == 10
    np.testing.assert_allclose(small.rerank_vectors(newer.names), unit(newer.rerank_NE), atol=1e-6)


def test_removed_tiles_are_not_found_again(small):
    tiles = make_tiles(10)
    small.add(tiles)
    small.remove(tiles.names[:4])
    assert small.count == 6
    assert sorted(small.recall(tiles.recall_ND[:1], 6).names[0]) == sorted(tiles.names[4:])
    with pytest.raises(TileIndexError, match="^7 answers are requested, but the index has 6 tiles"):
        small.recall(tiles.recall_ND[:1], 7)


def test_removing_an_unknown_name_removes_no_tile(small):
    tiles = make_tiles(5)
    small.add(tiles)
    with pytest.raises(TileIndexError, match="^tile nowhere is not in the index"):
        small.remove([tiles.names[0], "nowhere"])
    assert small.count == 5


def test_special_characters_in_a_name_have_no_effect(small):
    tiles = named([*NASTY_NAMES, "plain"])
    small.add(tiles)
    assert [facts.name for facts in small.facts(tiles.names)] == tiles.names
    for row, name in enumerate(NASTY_NAMES):
        assert small.recall(tiles.recall_ND[row : row + 1], 1).names == [[name]]
        assert small.rerank(tiles.rerank_NE[:1], [[name]], 5).names == [[name]]
    small.remove(NASTY_NAMES[:5])
    assert small.count == len(tiles.names) - 5
    for name in NASTY_NAMES[5:]:
        before = small.count
        small.remove([name])
        assert small.count == before - 1
    assert small.recall(tiles.recall_ND[:1], 1).names == [["plain"]]


def test_batches_contain_every_row_once_and_fit_into_a_message():
    for count, bytes_each in ((0, 10), (5000, 10), (1000, 132_000), (3, 1 << 30)):
        parts = list(milvus_index._batches(count, bytes_each))
        assert [row for part in parts for row in part] == list(range(count))
        assert all(len(part) == 1 or len(part) * bytes_each <= 4 << 20 for part in parts)


# ----- indexes and their addresses -----


def test_a_directory_opened_twice_is_released_by_the_last_close(address, tmp_path):
    one, two = create_milvus_index(address, CARD), create_milvus_index(f"{address}#rivers", RECALL_ONLY)
    one.close()
    two.add(Tiles(["t"], np.ones((1, D)), None, np.full((1, 2), np.nan), np.full((1, 4), np.nan)))
    assert two.recall(np.ones((1, D)), 1).names == [["t"]]
    with (tmp_path / "tiles.db" / "LOCK").open() as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        two.close()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as milvus-lite in another process would lock it
        with pytest.raises(TileIndexError, match="tiles.db: another process has it open; wait until it ends"):
            open_milvus_index(address)
    open_milvus_index(address).close()


def test_a_server_is_used_over_the_network(tmp_path, monkeypatch):
    """milvus-lite runs as the server; a test of a real server would need one."""
    optional_module("pymilvus")
    server, database, port = optional_module("milvus_lite.adapter.grpc.server").start_server_in_thread(str(tmp_path))
    monkeypatch.setenv(TOKEN_VARIABLE, "user:word")
    tiles = make_tiles(30)
    index = create_milvus_index(f"milvus:http://127.0.0.1:{port}#rivers", CARD)
    index.add(tiles)
    index.remove(tiles.names[:1])
    assert index.recall(tiles.recall_ND[5:6], 1).names == [[tiles.names[5]]]
    assert "word" not in str(index.statistics())
    index.close()
    server.stop(0)
    database.close()


def test_a_server_in_this_process_is_reached_without_a_proxy(address, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    create_milvus_index(address, CARD).close()


def test_the_address_determines_the_kind_of_index_that_is_opened(address, faiss_index, tmp_path):
    create_milvus_index(address, CARD).close()
    faiss_index.save(tmp_path / "faiss")
    for place, card in ((address, CARD), (str(tmp_path / "faiss"), replace(CARD, kind="flat"))):
        index = open_index(place)
        assert index.card == card
        index.close()


@pytest.mark.parametrize(
    ("text", "uri", "collection", "embedded"),
    [
        ("milvus:a/b.db", "a/b.db", "tiles", True),
        ("milvus:b.db#rivers_2", "b.db", "rivers_2", True),
        ("milvus:http://host:19530", "http://host:19530", "tiles", False),
        ("milvus:https://host/base#r", "https://host/base", "r", False),
    ],
)
def test_addresses(text, uri, collection, embedded):
    address = parse_address(text)
    assert (address.uri, address.collection, address.embedded) == (uri, collection, embedded)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("milvus:tiles", "is not a Milvus address; give milvus:DIRECTORY.db or milvus:http://host:19530"),
        ("milvus:ftp://host/tiles.db", "is not a Milvus address"),
        ("milvus:http://", "does not name host and port"),
        ("milvus:http://host:x", "does not name host and port"),
        ("milvus:t.db#a-b", "'a-b' is not a collection name"),
        ("milvus:http://user:secret@host:1", f"put user:password into {TOKEN_VARIABLE}"),
    ],
)
def test_invalid_addresses_are_named(text, message):
    with pytest.raises(TileIndexError) as caught:
        open_milvus_index(text)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_index_is_continued_by_the_same_card_only(address):
    index = create_milvus_index(address, CARD)
    index.add(make_tiles(3))
    index.close()
    again = create_milvus_index(address, CARD)
    assert again.count == 3
    again.close()
    other = replace(CARD, checkpoint_sha256="b" * 64)
    with pytest.raises(TileIndexError, match=f"^{address}#tiles exists already with checkpoint_sha256 a{{64}}, not b"):
        create_milvus_index(address, other)
    with pytest.raises(TileIndexError, match="#tiles exists already with kind flat, not hnsw; name a different"):
        create_milvus_index(address, CARD, "hnsw")
    opened = open_milvus_index(address)  # the refusal released the directory
    assert opened.card == CARD
    opened.close()


def card_text(**facts):
    """The card of a collection with recall vectors of width 4."""
    return json.dumps({"version": 1, **asdict(replace(RECALL_ONLY, dimension=4)), **facts})


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({}, "was not created by mindloc"),
        ({"mindloc_card": "{"}, "has a card that this program .version 1. can't read"),
        ({"mindloc_card": '{"version": 2}'}, "has a card that this program .version 1. can't read"),
        ({"mindloc_card": '{"version": 1, "kind": "milvus"}'}, "contradicts its card"),
        ({"mindloc_card": card_text()}, "has no index of its recall vectors"),
        ({"mindloc_card": card_text(nodes="4")}, "contradicts its card"),
        ({"mindloc_card": card_text(rerank_dimension=0)}, "contradicts its card"),
    ],
)
def test_a_collection_that_mindloc_did_not_create_is_refused(tmp_path, properties, message):
    directory = str(tmp_path / "tiles.db")
    client = optional_module("pymilvus").MilvusClient(directory)
    schema = client.create_schema()
    schema.add_field("id", optional_module("pymilvus").DataType.INT64, is_primary=True)
    schema.add_field("recall", optional_module("pymilvus").DataType.FLOAT_VECTOR, dim=4)
    client.create_collection("tiles", schema=schema, properties=properties)
    client.close()
    with pytest.raises(TileIndexError, match=message):
        open_milvus_index(f"milvus:{directory}")


@pytest.mark.parametrize(("dimension", "rerank"), [(50_176, None), (D, 32_769)])
def test_too_wide_vectors_are_refused_before_anything_is_created(tmp_path, dimension, rerank):
    card = IndexCard("milvus", "omega", dimension, rerank, None, None, None, None)
    with pytest.raises(TileIndexError, match=r"Milvus accepts up to 32768; reduce them with --pca.* pca DIRECTORY"):
        create_milvus_index(f"milvus:{tmp_path}/tiles.db", card)
    assert not any(tmp_path.iterdir())


def test_kinds_that_milvus_lite_lacks_are_refused(address):
    with pytest.raises(TileIndexError, match="^milvus-lite has no index of kind ivf_pq; choose flat, hnsw, ivf_flat"):
        create_milvus_index(address, CARD, "ivf_pq")


def test_something_else_at_the_place_of_an_index_is_named(tmp_path):
    (tmp_path / "file.db").write_text("SQLite format 3")
    (tmp_path / "directory.db").mkdir()
    (tmp_path / "empty.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    (tmp_path / "directory.db" / "thesis.tex").write_text("years of work")
    for name, message in (
        ("none.db", "none.db is missing; check the path"),
        ("file.db", "file.db is a file"),
        ("pipe.db", "pipe.db is a device or a pipe"),
        ("directory.db", "directory.db was not created by milvus-lite"),
        ("empty.db", "empty.db was not created by milvus-lite"),
    ):
        with pytest.raises(TileIndexError, match=message):
            open_milvus_index(f"milvus:{tmp_path}/{name}")
    with pytest.raises(TileIndexError, match="directory .*/nowhere for tiles.db is missing"):
        create_milvus_index(f"milvus:{tmp_path}/nowhere/tiles.db", CARD)
    assert os.listdir(tmp_path / "directory.db") == ["thesis.tex"] and not os.listdir(tmp_path / "empty.db")


def test_the_error_of_a_missing_collection_names_the_existing_ones(small, address):
    with pytest.raises(TileIndexError, match="tiles.db has no collection rivers; it has tiles"):
        open_milvus_index(f"{address}#rivers")


def test_a_damaged_index_is_one_line(address, tmp_path, capfd):
    create_milvus_index(address, CARD).close()
    (tmp_path / "tiles.db" / "collections" / "tiles" / "schema.json").write_text("{")
    with pytest.raises(TileIndexError) as caught:
        open_milvus_index(address)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_server_is_one_line(capfd):
    with pytest.raises(TileIndexError, match="^no Milvus server answers at http://127.0.0.1:1; start it, or check"):
        open_milvus_index("milvus:http://127.0.0.1:1")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("token", "message"), [("user:wrong", "refuses the token in"), ("", "requires a token, user:pass")]
)
def test_a_refused_token_is_one_line_without_it(monkeypatch, capfd, token, message):
    """The server refuses every token, with the message of Milvus 2.3."""
    grpc = optional_module("grpc")

    class Refusal(grpc.GenericRpcHandler):
        def service(self, call):
            def refuse(request, context):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check api key is correct")

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Refusal()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv(TOKEN_VARIABLE, token)
    with pytest.raises(TileIndexError, match=message) as caught:
        open_milvus_index(f"milvus:http://127.0.0.1:{port}")
    assert TOKEN_VARIABLE in str(caught.value) and "wrong" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    server.stop(0)


def test_a_missing_pymilvus_is_reported(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)  # as if it were not installed
    with pytest.raises(DeviceError, match="^pymilvus is not installed.*pip install -r requirements-milvus.txt"):
        create_milvus_index(address, CARD)


def test_an_index_without_re_rank_vectors_says_so(address):
    index = create_milvus_index(address, RECALL_ONLY)
    with pytest.raises(TileIndexError, match="contains no re-rank vectors"):
        index.rerank(np.ones((1, E)), [["x"]], 1)
    with pytest.raises(TileIndexError, match="the index contains no tiles"):
        index.recall(np.ones((1, D)), 1)
    index.close()


def test_unknown_and_invalid_names_are_named(small):
    small.add(make_tiles(5))
    with pytest.raises(TileIndexError, match="tile nowhere is not in the index"):
        small.rerank(np.ones((1, E)), [["satellite/0.png", "nowhere"]], 2)
    with pytest.raises(TileIndexError, match="tile name .* is not Unicode"):
        small.add(named(["\udcff.png"]))
    with pytest.raises(TileIndexError, match="has 1025 bytes; expected 1024 or fewer"):
        small.add(named(["x" * 1025]))
    assert small.count == 5
