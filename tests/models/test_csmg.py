"""CSMG equals a stored reference and naive loops, and has the properties of its formula."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindloc.models.two_stage import CSMG


class OnGrid(nn.Cell):
    """CSMG on a grid with fixed sides, as a whole graph."""

    def __init__(self, csmg, rows, columns):
        super().__init__()
        self.csmg, self.rows, self.columns = csmg, rows, columns

    def construct(self, x_BNC):
        return self.csmg(x_BNC, self.rows, self.columns)


@pytest.fixture(params=["graph", "pynative"])
def both_modes(request):
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def csmg_of(center_KC, **options):
    cell = CSMG(center_KC.shape[1], len(center_KC), **options)
    cell.centers.set_data(Tensor(center_KC.astype(np.float32)))
    return cell


def run(x_BNC, center_KC, grid, **options):
    outputs = OnGrid(csmg_of(center_KC, **options), *grid)(Tensor(x_BNC.astype(np.float32)))
    return [output.asnumpy() for output in outputs]


def naive(x_BNC, center_KC, grid, cosine=False, count=False, sort=True):
    """CSMG by its formula, in loops and float64."""
    phi, centroid = [], []
    for x_NC in x_BNC.astype(np.float64):
        nodes, areas, places = [], [], []
        for c in center_KC.astype(np.float64):
            d, soft, counted, place = np.zeros(len(c)), 0.0, 0, np.zeros(2)
            for i, x in enumerate(x_NC):
                s = max(0.0, float(c @ x) / (np.linalg.norm(c) * np.linalg.norm(x) if cosine else 1.0))
                row, column = divmod(i, grid[1])
                d, soft, counted = d + s * x, soft + s, counted + (s > 0)
                place += s * np.array([row / (grid[0] - 1), column / (grid[1] - 1)])
            nodes.append(d)
            areas.append(counted if count else soft)
            places.append(place / soft)
        ranked = sorted(range(len(nodes)), key=lambda k: (-areas[k], k)) if sort else list(range(len(nodes)))
        phi.append(np.concatenate([nodes[k] for k in ranked]))
        centroid.append([places[k] for k in ranked])
    return np.array(phi), np.array(centroid)


def random_case(images=2, grid=(3, 5), channels=6, nodes=4, seed=0):
    random = np.random.RandomState(seed)
    x_BNC = random.standard_normal((images, grid[0] * grid[1], channels)).astype(np.float32)
    return x_BNC, random.standard_normal((nodes, channels)).astype(np.float32)


@pytest.mark.usefixtures("both_modes")
def test_stored_reference(reference_dir):
    stored = np.load(reference_dir / "csmg.npz", allow_pickle=False)
    x_BNC = stored["x"].reshape(2, 64, 196).transpose(0, 2, 1)
    phi, _ = run(x_BNC, stored["centres"], (14, 14))
    assert np.abs(phi - stored["phi"]).max() <= 1e-5 * np.abs(stored["phi"]).max()


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("area", ["soft", "count"])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_naive_definition(similarity, area, sort):
    x_BNC, center_KC = random_case()
    got = run(x_BNC, center_KC, (3, 5), similarity=similarity, area=area, sort=sort)
    expected = naive(x_BNC, center_KC, (3, 5), similarity == "cosine", area == "count", sort)
    for mine, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_gradients_are_those_of_the_formula(similarity):
    """They equal central differences of the naive formula in float64, along random directions."""
    x_BNC, center_KC = random_case(seed=3)
    random = np.random.RandomState(4)
    weight_BE = random.standard_normal((2, 24))
    cell = OnGrid(csmg_of(center_KC, similarity=similarity), 3, 5)

    def loss(x):
        return ops.sum(cell(x)[0] * Tensor(weight_BE.astype(np.float32)))

    by_x, (by_center,) = ops.value_and_grad(loss, 0, ms.ParameterTuple([cell.csmg.centers]))(Tensor(x_BNC))[1]
    for array, gradient in ((x_BNC, by_x), (center_KC, by_center)):
        toward, step = random.standard_normal(array.shape), 1e-6
        sides = []
        for sign in (1, -1):
            moved = array.astype(np.float64) + sign * step * toward
            pair = (moved, center_KC) if array is x_BNC else (x_BNC, moved)
            sides.append((naive(*pair, (3, 5), similarity == "cosine")[0] * weight_BE).sum())
        slope = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose((gradient.asnumpy() * toward).sum(), slope, rtol=1e-4)


def test_permuting_the_positions_changes_only_the_centroids():
    x_BNC, center_KC = random_case()
    shuffled = x_BNC[:, np.random.RandomState(1).permutation(15)]
    before, after = (run(x, center_KC, (3, 5)) for x in (x_BNC, shuffled))
    np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-5)
    assert np.abs(before[1] - after[1]).max() > 0.01


def test_permuting_the_centers_changes_nothing_if_areas_differ():
    x_BNC, center_KC = random_case()
    before, after = (run(x_BNC, c, (3, 5)) for c in (center_KC, center_KC[[2, 0, 3, 1]]))
    np.testing.assert_allclose(before[0], after[0], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("both_modes")
def test_equal_areas_keep_the_order_of_the_centers():
    """Every position is similar to every center, so each node counts all 15 positions, and all areas are equal."""
    x_BNC, center_KC = np.abs(random_case()[0]), np.abs(random_case()[1])
    phi, _ = run(x_BNC, center_KC, (3, 5), area="count")
    unsorted, _ = run(x_BNC, center_KC, (3, 5), area="count", sort=False)
    np.testing.assert_array_equal(phi, unsorted)
    swapped = run(x_BNC, center_KC[[1, 0, 2, 3]], (3, 5), area="count")[0]
    nodes, others = phi.reshape(2, 4, 6), swapped.reshape(2, 4, 6)
    np.testing.assert_allclose(others, nodes[:, [1, 0, 2, 3]], rtol=1e-5)  # only two of equal area move


@pytest.mark.usefixtures("both_modes")
def test_a_tie_in_the_middle_is_stable():
    """Similar positions by hand: center 0 has 0 and 1 (area 2), center 1 has 0 to 3 (area 4), center 2 has 2, 3 (2)."""
    x_BNC = np.array([[[1, 0, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]]], np.float32)
    center_KC = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32)
    phi, _ = run(x_BNC, center_KC, (2, 2), area="count")  # nodes of the centers 1, 0, 2
    np.testing.assert_array_equal(phi, [[2, 2, 4, 2, 0, 2, 0, 2, 2]])


def test_a_center_without_similar_positions_gives_an_empty_node_in_the_middle():
    x_BNC = np.abs(random_case()[0])
    center_KC = np.stack([np.ones(6), -np.ones(6)]).astype(np.float32)
    phi, centroid = run(x_BNC, center_KC, (3, 5))
    assert phi[:, :6].all() and not phi[:, 6:].any()
    np.testing.assert_allclose(centroid[:, 1], 0.5)


def test_one_row_of_positions_has_its_centroid_half_way_down():
    x_BNC, center_KC = random_case(grid=(1, 4), nodes=1)
    centroid = run(np.abs(x_BNC), np.abs(center_KC), (1, 4))[1]
    np.testing.assert_allclose(centroid[..., 0], 0.5)
    assert ((centroid[..., 1] > 0) & (centroid[..., 1] < 1)).all()
