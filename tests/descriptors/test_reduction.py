"""Randomized PCA equals the exact decomposition, recovers low-rank data, and never needs a D x D matrix."""

import dataclasses
import hashlib
import tracemalloc

import numpy as np
import pytest

from mindloc.descriptors import reduction as reduction_file
from mindloc.descriptors.reduction import fit_reduction, load_reduction, save_reduction
from mindloc.errors import DataError
from mindloc.runtime.checkpoint import write_tensor_file


def falling(rows=200, width=120, seed=0, fall=0.9):
    """Rows whose singular values fall by a tenth each, around a mean that is not zero."""
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.standard_normal((rows, width)))[0]
    right = np.linalg.qr(random.standard_normal((width, width)))[0]
    return ((left * fall ** np.arange(width)) @ right.T + random.standard_normal(width)).astype(np.float32)


def exact(omega_ND, dimension):
    """Components and explained share by a full singular value decomposition in float64."""
    centered_ND = omega_ND.astype(np.float64) - omega_ND.mean(axis=0, dtype=np.float64)
    _, singular, right = np.linalg.svd(centered_ND, full_matrices=False)
    return right[:dimension].T, np.sum(singular[:dimension] ** 2) / np.sum(singular**2)


def test_components_are_the_exact_ones_up_to_sign():
    omega_ND = falling()
    found = fit_reduction(omega_ND, 10, seed=1)
    component_DE, share = exact(omega_ND, 10)
    np.testing.assert_allclose(np.abs(found.component_DE.T @ component_DE), np.eye(10), atol=1e-4)
    np.testing.assert_allclose(found.mean_D, omega_ND.mean(axis=0), atol=1e-6)
    assert found.explained_share == pytest.approx(share, abs=1e-5)


def test_slowly_falling_singular_values_explain_as_much_as_the_exact_decomposition():
    omega_ND = falling(fall=0.99)
    assert fit_reduction(omega_ND, 30, seed=1).explained_share > 0.99 * exact(omega_ND, 30)[1]


def test_low_rank_is_recovered():
    random = np.random.default_rng(3)
    omega_ND = random.standard_normal((300, 5)) @ random.standard_normal((5, 90)) + 2.0
    found = fit_reduction(omega_ND, 5, seed=0)
    assert found.explained_share == pytest.approx(1.0, abs=1e-6)
    centered_ND = omega_ND - omega_ND.mean(axis=0)
    again_ND = centered_ND @ found.component_DE @ found.component_DE.T
    np.testing.assert_allclose(again_ND, centered_ND, atol=1e-4)


def test_components_are_orthonormal():
    component_DE = fit_reduction(falling(), 40, seed=0).component_DE
    np.testing.assert_allclose(component_DE.T @ component_DE, np.eye(40), atol=1e-5)


def test_projection_is_the_definition_with_unit_length():
    omega_ND = falling()
    found = fit_reduction(omega_ND, 7, seed=0)
    plain_NE = (omega_ND.astype(np.float64) - found.mean_D) @ found.component_DE
    expected_NE = plain_NE / np.linalg.norm(plain_NE, axis=1, keepdims=True)
    np.testing.assert_allclose(found.project(omega_ND), expected_NE, atol=1e-5)
    assert found.project(omega_ND[:1]).dtype == np.float32


def test_a_full_reduction_keeps_all_angles_around_the_mean():
    omega_ND = falling(rows=60, width=20)
    found = fit_reduction(omega_ND, 20, seed=0)
    centered_ND = omega_ND - omega_ND.mean(axis=0)
    unit_ND = centered_ND / np.linalg.norm(centered_ND, axis=1, keepdims=True)
    reduced_NE = found.project(omega_ND)
    np.testing.assert_allclose(reduced_NE @ reduced_NE.T, unit_ND @ unit_ND.T, atol=1e-4)


def test_the_result_does_not_depend_on_the_block_size(monkeypatch, tmp_path):
    omega_ND = falling()
    np.save(tmp_path / "omega.npy", omega_ND)
    whole = fit_reduction(omega_ND, 8, seed=4)
    monkeypatch.setattr(reduction_file, "_BLOCK_NUMBERS", 120 * 7)  # seven rows at a time
    mapped_ND = np.load(tmp_path / "omega.npy", mmap_mode="r")
    blocks = fit_reduction(mapped_ND, 8, seed=4)
    np.testing.assert_allclose(blocks.component_DE, whole.component_DE, atol=1e-4)
    np.testing.assert_allclose(blocks.project(mapped_ND), whole.project(omega_ND), atol=1e-4)


def test_the_seed_determines_the_result():
    a, b, c = (fit_reduction(falling(fall=1.0), 5, seed).component_DE for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_memory_stays_far_below_the_covariance():
    width = 20_000
    omega_ND = np.random.default_rng(0).standard_normal((80, width), np.float32)
    tracemalloc.start()
    fit_reduction(omega_ND, 8, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < width * width * 4 / 10  # one such matrix of float32 would have 1.6 GB


@pytest.mark.parametrize(
    ("omega_ND", "dimension", "message"),
    [
        (falling(rows=9, width=5), 6, "9 vectors of width 5 can be reduced to 1 to 5 numbers, not 6"),
        (falling(rows=150), 151, "not 151"),
        (falling(), 0, "not 0"),
        (np.ones((1100, 1100), np.float32), 1025, "1 to 1024 numbers, not 1025"),
        (np.ones((9, 5), np.float32), 2, "all 9 vectors are equal"),
        (np.full((9, 5), np.nan), 2, "row 0 of the vectors contains NaN"),
        (np.ones(5), 1, r"shape \(5,\) can't be reduced"),
        (np.ones((0, 5)), 1, r"shape \(0, 5\) can't be reduced"),
    ],
)
def test_vectors_that_can_not_be_reduced_raise(omega_ND, dimension, message):
    with pytest.raises(DataError, match=message) as caught:
        fit_reduction(omega_ND, dimension, seed=0)
    assert "\n" not in str(caught.value)


def test_queries_of_another_width_raise():
    found = fit_reduction(falling(), 5, seed=0)
    with pytest.raises(DataError, match=r"takes descriptors of dimension 120, but these have 7"):
        found.project(np.ones((2, 7)))


def test_a_saved_reduction_loads_unchanged(tmp_path):
    found = save_reduction(tmp_path / "r.safetensors", fit_reduction(falling(), 5, seed=9, checkpoint_sha256="c" * 64))
    loaded = load_reduction(tmp_path / "r.safetensors")
    for name, value in vars(found).items():
        np.testing.assert_array_equal(getattr(loaded, name), value, err_msg=name)
    assert loaded.sha256 == hashlib.sha256((tmp_path / "r.safetensors").read_bytes()).hexdigest()
    unknown = dataclasses.replace(found, checkpoint_sha256=None)
    save_reduction(tmp_path / "r.safetensors", unknown)
    assert load_reduction(tmp_path / "r.safetensors").checkpoint_sha256 is None


def test_a_file_that_is_not_a_reduction_is_named(tmp_path):
    path = tmp_path / "r.safetensors"
    with pytest.raises(DataError, match="is missing"):
        load_reduction(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a complete safetensors file"):
        load_reduction(path)
    metadata = {"format": "mindloc.reduction", "checkpoint_sha256": "", "rows": "9", "seed": "0"}
    metadata["explained_share"] = ".5"
    good = {"mean": np.ones(4, np.float32), "components": np.ones((4, 2), np.float32)}
    foreign = [
        ({"weight": np.ones(3, np.float32)}, {}),
        (good, {**metadata, "rows": "many"}),
        (good, {**metadata, "format": "mindloc.weights"}),
        ({**good, "mean": np.ones(5, np.float32)}, metadata),
        ({**good, "components": np.ones(4, np.float32)}, metadata),
        ({**good, "mean": np.ones(4)}, metadata),
        ({**good, "mean": np.ones((4, 2), np.float32)}, metadata),
        ({**good, "mean": np.array([1, 2, np.nan, 4], np.float32)}, metadata),
        ({**good, "components": np.full((4, 2), np.inf, np.float32)}, metadata),
        ({**good, "components": np.ones((4, 0), np.float32)}, metadata),
        (good, {**metadata, "explained_share": "nan"}),
    ]
    write_tensor_file(path, good, metadata, "reduction")
    assert load_reduction(path).dimension == 2
    for arrays, facts in foreign:
        write_tensor_file(path, arrays, facts, "reduction")
        with pytest.raises(DataError, match="is not a reduction of recall vectors"):
            load_reduction(path)
