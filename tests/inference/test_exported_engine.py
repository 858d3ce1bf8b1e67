"""Engines of exported files return the descriptors of the checkpoint that was exported."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
from exported_sides import exported_files
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mindspore")
pytest.importorskip("onnxruntime")

from mindloc.config import config_from_dict
from mindloc.descriptors.sets import load_descriptor_set
from mindloc.errors import DataError, DeviceError, ExportError
from mindloc.export.formats import WRITERS
from mindloc.inference.build import compare_with_exact
from mindloc.inference.engine import compare_descriptors
from mindloc.inference.exported import ExportedEngine, as_pixels
from mindloc.inference.mindir import load_mindir_engine
from mindloc.inference.onnx import CPU, CUDA, Provider, load_onnx_engine
from mindloc.models.vit_rope import SIZES
from mindloc.runtime.checkpoint import load_weights
from mindloc.vocabulary import SIDES

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)  # as in the fixture's config


def blobs(count, height, width, seed):
    """Generated images of colored blobs, normalized as in the data pipeline."""
    import cv2

    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    pixels = np.stack([cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in small])
    normal = (pixels - 255 * np.array(MEAN)) / (255 * np.array(STD))
    return pixels, normal.transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def live(exported):
    from mindloc.inference.build import load_engine

    return load_engine(exported[0], batch_size=4)[0]


@pytest.fixture(scope="module")
def live_in_stages(exported_in_stages):
    from mindloc.inference.build import load_engine

    return load_engine(exported_in_stages[0], batch_size=2)[0]


@functools.cache  # every new engine compiles its MINDIR file
def start(exported, name, sides=SIDES, int8=False, directory=1):
    files = exported_files(exported[directory], name.upper(), sides, "fp32")
    if name == "mindir":
        return load_mindir_engine(files, batch_size=4)
    return load_onnx_engine(files, Provider(CPU), int8)


def encode(engine, side, images):
    size = engine.batch_size
    return np.concatenate(
        [engine.encode({side: images[i : i + size]})[f"{side}.global"] for i in range(0, len(images), size)]
    )


def unit(matrix_ND):
    return matrix_ND / np.linalg.norm(matrix_ND.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["mindir", "onnx"])
def test_descriptors_and_ranks_are_those_of_the_live_encoder(exported, live, name):
    engine = start(exported, name)
    assert (engine.name, engine.precision, engine.batch_size) == (name, "fp32", 3)
    assert engine.checkpoint_sha256 == live.checkpoint_sha256
    both = []
    for one in (live, engine):
        query, reference = (
            encode(one, "query", blobs(10, 32, 48, 1)[1]),
            encode(one, "reference", blobs(40, 32, 32, 2)[1]),
        )
        assert query.shape == (10, SIZES["tiny"].width) and query.dtype == np.float32
        both.append((query, reference))
    tolerance = WRITERS[name.upper()].tolerance["fp32"]  # the difference that export allows
    for expected_ND, got_ND in zip(*both, strict=True):
        assert np.abs(got_ND - expected_ND).max() <= tolerance * np.abs(expected_ND).max()
    expected_QG, got_QG = (unit(query) @ unit(reference).T for query, reference in both)
    apart_QGG = np.abs(expected_QG[:, :, None] - expected_QG[:, None, :]) > tolerance
    order = [score_QG[:, :, None] > score_QG[:, None, :] for score_QG in (expected_QG, got_QG)]
    assert apart_QGG.any(2).all()  # every score has another to be ranked against
    assert (order[0] == order[1])[apart_QGG].all()


def test_a_file_that_takes_pixels_receives_pixels(exported, live):
    engine = start(exported, "onnx", ("query",), directory=2)
    _, images = blobs(6, 32, 48, 5)
    got, expected = encode(engine, "query", images), encode(live, "query", images)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(got, unit(expected), atol=1e-5)


@given(st.tuples(*[st.floats(0, 1)] * 3), st.tuples(*[st.floats(0.01, 1)] * 3))
def test_every_pixel_is_recovered_from_its_normalized_value(mean, std):
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    normal = ((pixels - 255.0 * np.array(mean)) / (255.0 * np.array(std))).astype(np.float32)
    np.testing.assert_array_equal(as_pixels(normal.transpose(0, 3, 1, 2), mean, std), pixels)


def test_an_onnx_file_runs_without_mindspore(exported, tmp_path):
    import cv2

    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    words = ["extract", str(tmp_path / "images"), "--engine", "onnx", "--exported", str(exported[1])]
    words += ["--precision", "int8", "--out", str(tmp_path / "set")]
    code = f"import sys; from mindloc.cli import main; sys.exit(main({words}) or 'mindspore' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "agreement of int8 with fp32: cosine" in done.stdout
    assert load_descriptor_set(tmp_path / "set").card["view"] == "satellite"


def test_int8_is_near_fp32_and_stated_in_the_facts(exported, live):
    exact, rounded = start(exported, "onnx"), start(exported, "onnx", int8=True)
    images = blobs(12, 32, 48, 1)[1]
    exact_ND, rounded_ND = (unit(encode(engine, "query", images)) for engine in (exact, rounded))
    assert np.abs(exact_ND - rounded_ND).max() > WRITERS["ONNX"].tolerance["fp32"]  # otherwise nothing was rounded
    assert ((rounded_ND @ exact_ND.T).argmax(1) == np.arange(12)).all()  # each is nearest to the one of its own image
    assert rounded.precision == "int8" and rounded.facts["quantization"].startswith("dynamic")


def compared(engine, checkpoint, directory, count) -> str:
    """The line that ``compare_with_exact`` prints, for ``count`` images of each side."""
    import cv2

    config, said = config_from_dict(load_weights(checkpoint).config), []
    paths = [directory / f"{number}.png" for number in range(count)]
    for path, pixels in zip(paths, blobs(count, 32, 48, 1)[0], strict=True):
        cv2.imwrite(str(path), pixels)
    compare_with_exact(engine, config, dict.fromkeys(SIDES, paths), said.append)
    return "".join(said)


def test_the_facts_of_an_engine_for_the_card_of_a_descriptor_set(exported, tmp_path):
    engine = start(exported, "onnx")
    facts = engine.facts
    card = exported_files(exported[1], "ONNX", ("query",))["query"]
    assert facts["exported"]["query"] == {"file": "drone.onnx", "sha256": card.sha256}
    assert facts["provider"] == "CPUExecutionProvider" and facts["engine"] == "onnx" and "agreement" not in facts
    assert facts["checkpoint_sha256"] == card.checkpoint_sha256
    assert compared(engine, exported[0], tmp_path, 1) == "" and "agreement" not in engine.facts  # it is exact
    engine.exact = lambda: engine
    assert compared(engine, exported[0], tmp_path, 1).startswith("agreement of fp32 with fp32: cosine")
    assert set(engine.facts["agreement"]) == {"with", "global"} and engine.facts["agreement"]["with"] == "fp32"
    near = engine.facts["agreement"]["global"]
    assert near["images"] == 2 and near["cosine_min"] == pytest.approx(1.0) == near["cosine_mean"]


@pytest.mark.parametrize("count", [0, 4])
def test_a_batch_that_does_not_fit_is_refused(exported, count):
    with pytest.raises(DataError, match=f"a batch has {count} query images, but the engine takes 1 to 3"):
        start(exported, "onnx").encode({"query": np.zeros((count, 3, 32, 48), np.float32)})


def test_a_file_that_returns_a_different_shape_is_named(exported):
    files = exported_files(exported[1], "ONNX", ("query",))
    engine = ExportedEngine("onnx", "fp32", files, lambda file: lambda images: [np.zeros((3, 7))])
    with pytest.raises(
        ExportError,
        match=rf"drone.onnx returns shape \(3, 7\) for 3 images, but its card says shape \(3, {SIZES['tiny'].width}\)",
    ):
        engine.encode({"query": np.zeros((1, 3, 32, 48), np.float32)})


def test_int8_is_for_cpus(exported):

    with pytest.raises(DeviceError, match="int8 is for CPUs"):
        load_onnx_engine(exported_files(exported[1], "ONNX", ("query",)), Provider(CUDA), int8=True)


def test_an_encrypted_file_needs_its_key(exported, tmp_path):
    from mindloc.export.build import ExportRequest, export_checkpoint

    key = bytes(range(16))
    export_checkpoint(exported[0], tmp_path, ExportRequest(view="satellite", batch_size=2, key=key))
    files = exported_files(tmp_path, "MINDIR", ("reference",))
    with pytest.raises(ExportError, match="is encrypted; name the file with its key: --dec_key_file"):
        load_mindir_engine(files, 2)
    with pytest.raises(ExportError, match="can't be decrypted with this key"):
        load_mindir_engine(files, 2, bytes(16))
    images = blobs(2, 32, 32, 3)[1]
    plain = start(exported, "mindir").encode({"reference": images})["reference.global"]
    secret = load_mindir_engine(files, 2, key).encode({"reference": images})["reference.global"]
    np.testing.assert_allclose(secret, plain, atol=1e-5 * np.abs(plain).max())


def test_agreement_by_hand():
    one = np.array([[1.0, 0.0], [3.0, 4.0]])
    other = np.array([[2.0, 0.0], [4.0, 3.0]])  # cosines: 1, the same direction; (12 + 12) / 25
    agreement = compare_descriptors((one, other))
    assert agreement.cosine_min == pytest.approx(0.96) and agreement.cosine_mean == pytest.approx(0.98)
    assert agreement.largest_difference == pytest.approx(0.2) and agreement.images == 2
    wider = compare_descriptors((one, other), (np.eye(3), np.eye(3)[[0, 1, 1]]))  # cosines .., 1, 1, 0: 2.96 of 5
    assert (wider.images, wider.cosine_min, wider.largest_difference) == (5, 0.0, 1.0)
    assert wider.cosine_mean == pytest.approx((1 + 0.96 + 1 + 1 + 0) / 5)


# Encoders of two stages.


@pytest.mark.parametrize("name", ["mindir", "onnx"])
def test_every_descriptor_is_that_of_the_live_encoder(exported_in_stages, live_in_stages, name):
    engine = start(exported_in_stages, name)
    assert engine.descriptors == live_in_stages.descriptors == ("omega", "phi", "centroids")
    tolerance = WRITERS[name.upper()].tolerance["fp32"]
    for side in SIDES:
        images = blobs(2, 32, 32, 6)[1]  # fewer than the file takes
        got, expected = engine.encode({side: images}), live_in_stages.encode({side: images})
        sides = {f"{side}.omega": 4 * 8, f"{side}.phi": 3 * 8, f"{side}.centroids": 2 * 3}  # grid, channels, nodes
        assert {key: rows.shape for key, rows in got.items()} == {key: (2, side) for key, side in sides.items()}
        for key, rows in got.items():
            assert rows.dtype == np.float32
            assert np.abs(rows - expected[key]).max() <= tolerance * np.abs(expected[key]).max()
            assert np.abs(rows[0] - rows[1]).max() > 10 * tolerance  # images are distinguished


def test_a_file_of_two_stages_with_free_batch_takes_any_batch(exported_in_stages):
    engine = start(exported_in_stages, "mindir")
    images = blobs(4, 32, 32, 7)[1]
    together = engine.encode({"query": images})
    for count in (1, 3):
        for key, rows in engine.encode({"query": images[:count]}).items():
            assert rows.shape == (count, together[key].shape[1])
            np.testing.assert_allclose(rows, together[key][:count], atol=1e-5 * np.abs(together[key]).max())


def test_int8_reports_the_agreement_of_each_descriptor(exported_in_stages, tmp_path):

    rounded = start(exported_in_stages, "onnx", int8=True)
    said = compared(rounded, exported_in_stages[0], tmp_path, 3)
    near = rounded.facts["agreement"]
    assert set(near) == {"with", "omega", "phi", "centroids"} and near["omega"]["images"] == 6
    assert near["omega"]["largest_difference"] > WRITERS["ONNX"].tolerance["fp32"]  # otherwise nothing was rounded
    assert near["omega"]["cosine_min"] > 0.9
    assert [part.split()[0] for part in said.partition(": ")[2].split("; ")] == ["omega", "phi", "centroids"]


def test_a_file_that_returns_different_descriptors_is_named(exported_in_stages):
    files = exported_files(exported_in_stages[1], "ONNX", ("query",))
    engine = ExportedEngine("onnx", "fp32", files, lambda file: lambda images: [np.zeros((3, 32)), np.zeros((3, 24))])
    match = r"returns shapes \(3, 32\), \(3, 24\) for 3 images, but its card says shapes .*, \(3, 6\); export again"
    with pytest.raises(ExportError, match=match):
        engine.encode({"query": np.zeros((1, 3, 32, 32), np.float32)})
