"""Search within a circle: an index worked out by hand, and circles that can't be searched.

The query's recall vector is (1, 0), its re-rank vector (1, 0), so that a cosine is the tile's first number:

==== ======== ========= ========
tile recall   re-rank   place
==== ======== ========= ========
west 0.8, 0.6   0.6, 0.8    100, 0
here 0.6, 0.8   1, 0      200, 0
east 0, 1     0.28, 0.96  300, 0
edge 0.96, 0.28 0.8, 0.6    290, 90
far  1, 0     1, 0      400, 0
==== ======== ========= ========
"""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mindloc.errors import TileIndexError
from mindloc.search.faiss_index import build_faiss_index
from mindloc.search.index import Box, Circle, IndexCard, Tiles
from mindloc.search.two_stage import two_stage_search

PLACE = [[100, 0], [200, 0], [300, 0], [290, 90], [400, 0]]
QUERY = np.array([[1.0, 0.0]])


def make(unit="plane_m", place=PLACE, rerank=True):
    recall = np.array([[0.8, 0.6], [0.6, 0.8], [0, 1], [0.96, 0.28], [1, 0]])
    vectors = np.array([[0.6, 0.8], [1, 0], [0.28, 0.96], [0.8, 0.6], [1, 0]]) if rerank else None
    place_N2 = np.full((5, 2), np.nan) if unit is None else np.array(place, np.float64)
    card = IndexCard("flat", "omega", 2, 2 if rerank else None, 1 if rerank else None, unit, None, None)
    tiles = Tiles(["west", "here", "east", "edge", "far"], recall, vectors, place_N2, np.full((5, 4), np.nan))
    return build_faiss_index(card, tiles)


def search(circle, n=5, k=5, m=0, index=None, rerank=True):
    found = two_stage_search(index or make(), QUERY, QUERY if rerank else None, n, k, m, circle)
    scores = [round(float(score), 5) for score in found.scores[0]]
    return list(zip(found.names[0], scores, found.recall_rank[0].tolist(), strict=True))


def test_what_the_box_contains_and_the_circle_does_not_is_dropped():
    # the box contains all tiles but far, recalled as edge west here east; edge is hypot(90, 90) = 127.3 m away,
    # west is on the circle
    assert search(Circle((200, 0), 100)) == [("here", 1.0, 3), ("west", 0.6, 2), ("east", 0.28, 4)]
    assert search(Circle((200, 0), 128))[1] == ("edge", 0.8, 1)
    assert search(Circle((200, 0), 127)) == search(Circle((200, 0), 100))


def test_k_answers_are_counted_within_the_circle():
    assert search(Circle((200, 0), 100), k=2) == [("here", 1.0, 3), ("west", 0.6, 2)]
    # two tiles of the box are requested: edge and west, of which edge is outside the circle
    assert search(Circle((200, 0), 100), n=2, k=2) == [("west", 0.6, 2)]


def test_one_stage_returns_k_of_the_n_nearest():
    found = search(Circle((200, 0), 100), k=2, index=make(rerank=False), rerank=False)
    assert found == [("west", 0.8, 2), ("here", 0.6, 3)]


def test_scores_that_are_consistencies_are_counted_behind_the_dropped_ones():
    # here, edge and west are compared by nodes; edge is dropped, so two consistencies are left before east's cosine
    found = two_stage_search(make(), QUERY, QUERY, 5, 5, 3, Circle((200, 0), 100))
    assert found.names == [["here", "west", "east"]] and found.compared == [2]
    nowhere = two_stage_search(make(), QUERY, QUERY, 5, 5, 3, Circle((-200, 0), 100))
    assert nowhere.names == [[]] and nowhere.compared == [0]


def test_a_circle_of_degrees_is_round_on_the_ground():
    # at 60 degrees north 0.002 degrees of longitude are 111 m, half of a latitude's
    place = [[60, 10], [60, 10.002], [60.002, 10], [60, 10.004], [61, 10]]
    found = search(Circle((60, 10), 150), index=make("lat_lon_deg", place))
    assert sorted(name for name, _, _ in found) == ["here", "west"]


FIJI = [[-16.8, 179.999], [-16.8, -179.999], [-16.8, 179.99], [-16.8, -179.99], [-16.8, 180]]


@pytest.mark.parametrize(
    ("where", "expected"),
    [  # 0.001 degrees of longitude are 106 m there
        (Circle((-16.8, 179.9995), 300), ["far", "here", "west"]),
        (Circle((-16.8, 180.0005), 120), ["far", "here"]),
        (Circle((-16.8, -179.9995), 120), ["far", "here"]),
        (Box((-16.9, 179.998), (-16.7, -179.998)), ["far", "here", "west"]),
        (Box((-16.9, 179.998), (-16.7, 180.002)), ["far", "here", "west"]),
        (Box((-16.9, -180.002), (-16.7, -179.998)), ["far", "here", "west"]),
        (Box((-16.9, -180), (-16.7, -179.98)), ["edge", "far", "here"]),
        (Box((-16.9, -180), (-16.7, 180)), ["east", "edge", "far", "here", "west"]),
    ],
)
def test_tiles_on_both_sides_of_the_180th_meridian_are_found(where, expected):
    found = search(where, index=make("lat_lon_deg", FIJI))
    assert sorted(name for name, _, _ in found) == expected


def test_around_a_pole_tiles_at_all_longitudes_are_found():
    place = [[89.9999, 0], [89.9999, 180], [89.9999, -90], [89, 0], [-89.9999, 0]]
    found = search(Circle((90, 77), 100), index=make("lat_lon_deg", place))
    assert sorted(name for name, _, _ in found) == ["east", "here", "west"]


@given(st.floats(-180, 180), st.floats(0, 170), st.lists(st.floats(-180, 180), min_size=1, max_size=5))
def test_a_box_of_longitudes_is_the_arc_from_west_to_east(west, width, lon):
    """Defined by the angle from its western edge; whole thousandths keep every place off an edge by rounding."""
    west, width, lon = round(west, 3), round(width, 3) + 0.0005, [round(one, 3) for one in lon]
    card = IndexCard("flat", "omega", 2, None, None, "lat_lon_deg", None, None)
    inside = [round((one - west) % 360, 6) % 360 <= width for one in lon]
    for east in (west + width, (west + width + 180) % 360 - 180):
        parts = Box((-1, west), (1, east)).parts(card)
        assert [any(part.low[1] - 1e-9 <= one <= part.high[1] for part in parts) for one in lon] == inside


@pytest.mark.parametrize(
    ("unit", "circle", "error", "message"),
    [
        (None, Circle((0, 0), 1), TileIndexError, "has no places"),
        ("lat_lon_deg", Circle((119.4, 31.7), 9), TileIndexError, "is not a place in degrees"),
        ("lat_lon_deg", Circle((10, 400), 9), TileIndexError, "is not a place in degrees"),
        ("lat_lon_deg", Box((10, 400), (11, 401)), TileIndexError, "is not in degrees"),
        ("lat_lon_deg", Box((10, 20), (11, 19)), TileIndexError, "is upside down"),  # not the remaining 359 degrees
    ],
)
def test_circles_that_can_not_be_searched_are_named(unit, circle, error, message):
    with pytest.raises(error, match=message):
        search(circle, index=make(unit, np.full((5, 2), 60.0)))


CORNER = st.tuples(st.integers(-90, 90), st.integers(-180, 180))


@given(CORNER, CORNER)
@example((10, 179), (0, -179))  # 2 degrees wide, across the 180th meridian
@example((0, 0), (-1, 0))
def test_a_box_that_is_refused_names_one_that_is_taken(low, high):
    card = IndexCard("flat", "omega", 2, None, None, "lat_lon_deg", None, None)
    try:
        Box(low, high).box(card)
    except TileIndexError as error:
        a0, b0, a1, b1 = map(float, str(error).rpartition(": ")[2].split(","))
        assert (a0, a1) == tuple(sorted((low[0], high[0]))) and {b0, b1} == {low[1], high[1]}
        box = Box((a0, b0), (a1, b1)).box(card)
        assert box.high[1] - box.low[1] <= 180


@pytest.mark.parametrize(("n", "k"), [(2, 3), (2, 0)])
def test_more_answers_than_are_requested_are_refused(n, k):
    with pytest.raises(TileIndexError, match=f"{k} answers are requested from 2 tiles of the box"):
        search(Circle((200, 0), 100), n=n, k=k)
