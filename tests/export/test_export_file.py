"""Every format with a graph of one line: the outputs of the file, in each program, are those that the card states."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

pytest.importorskip("mindspore")
pytest.importorskip("onnxruntime")

import mindspore as ms
import onnxruntime
from mindspore import nn, ops

from mindloc.errors import ExportError
from mindloc.export.artifact import ExportSpec, compare
from mindloc.export.build import export_file
from mindloc.export.formats import WRITERS

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
FACTS = {"checkpoint_sha256": "abc", "config": {}}
KEY = bytes(range(32))


class Colors(nn.Cell):
    """Descriptor = (mean of the image's first channel, of the second, of the third, its top left pixel's first)."""

    def construct(self, images):
        return {"query.global": ops.concat((ops.mean(images, (2, 3)), images[:, :1, 0, 0]), axis=1)}


class TwoStage(nn.Cell):
    """Phi = mean of each channel, Omega = all pixels / 9, centroids = twice its start; in another order."""

    def construct(self, images):
        rows = ops.reshape(images, (-1, 72)) / 9
        return {"query.phi": ops.mean(images, (2, 3)), "query.omega": rows, "query.centroids": 2 * rows[:, :4]}


THREE = ("omega", "phi", "centroids")


def spec(batch_size=2, **more):
    return ExportSpec({"query": "drone"}, (4, 6), batch_size, MEAN, STD, **more)


def export(path, what, file_format, key=None, encoder=Colors):
    ms.set_context(mode=ms.GRAPH_MODE)
    return export_file(encoder(), what, path, file_format, FACTS, key)


def run_elsewhere(path, images, key=None):
    """The outputs of a file that MindSpore or ONNX Runtime runs without mindloc."""
    if path.suffix == ".mindir":
        secret = {} if key is None else {"dec_key": key, "dec_mode": "AES-GCM"}
        outputs = nn.GraphCell(ms.load(str(path), **secret))(ms.Tensor(images))
        return [rows.asnumpy() for rows in outputs] if isinstance(outputs, tuple) else outputs.asnumpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    if len(session.get_outputs()) > 1:
        return session.run(list(THREE), {"images": images})
    return session.run(["descriptor"], {"images": images})[0]


def by_hand(pixels_BHW3):
    normal = (pixels_BHW3 / 255.0 - MEAN) / STD
    return np.concatenate([normal.mean((1, 2)), normal[:, 0, 0, :1]], axis=1)


PIXELS = np.random.default_rng(3).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
FORMATS = [("MINDIR", "drone.mindir"), ("ONNX", "drone.onnx")]


@pytest.mark.parametrize(("file_format", "name"), FORMATS)
def test_pixels_are_normalized_in_the_file(tmp_path, file_format, name):
    export(tmp_path / name, spec(takes_pixels=True), file_format)
    np.testing.assert_allclose(run_elsewhere(tmp_path / name, PIXELS), by_hand(PIXELS), atol=1e-5)
    entry = json.loads((tmp_path / f"{name}.json").read_text())["input"]
    assert entry["shape"] == [2, 4, 6, 3] and entry["dtype"] == "uint8"
    assert entry["layout"] == "batch, height, width, RGB" and entry["mean"] == list(MEAN)


@pytest.mark.parametrize(("file_format", "name"), FORMATS)
def test_descriptors_of_length_one(tmp_path, file_format, name):
    export(tmp_path / name, spec(takes_pixels=True, unit_length=True), file_format)
    expected = by_hand(PIXELS)
    expected /= np.sqrt((expected**2).sum(1, keepdims=True))
    np.testing.assert_allclose(run_elsewhere(tmp_path / name, PIXELS), expected, atol=1e-5)
    assert json.loads((tmp_path / f"{name}.json").read_text())["outputs"] == [
        {"name": "descriptor", "dimension": 4, "length": "1"}
    ]


@pytest.mark.parametrize(("file_format", "name", "batch_size"), [(*FORMATS[0], None), (*FORMATS[1], 2)])
def test_every_descriptor_comes_out_in_its_place(tmp_path, file_format, name, batch_size):
    """No length is changed: the encoder itself normalizes Omega and Phi, and centroids are positions."""
    check = export(
        tmp_path / name, spec(batch_size, unit_length=True, descriptors=THREE), file_format, encoder=TwoStage
    )
    images = np.random.default_rng(1).standard_normal((2, 3, 4, 6)).astype(np.float32)
    omega_BD, phi_BD, centroid_BD = run_elsewhere(tmp_path / name, images)
    np.testing.assert_allclose(omega_BD, images.reshape(2, 72) / 9, rtol=1e-5)
    np.testing.assert_allclose(phi_BD, images.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(centroid_BD, images.reshape(2, 72)[:, :4] * 2 / 9, rtol=1e-5)
    card = json.loads((tmp_path / f"{name}.json").read_text())
    described = [(output["name"], output["dimension"], output["length"][:4]) for output in card["outputs"]]
    assert described == [("omega", 72, "1"), ("phi", 3, "1"), ("centroids", 4, "any:")]
    assert list(check["of_each"]) == list(THREE) and check["largest_difference"] == max(check["of_each"].values())
    assert card["version"] == 1 and card["check"] == check


@pytest.mark.parametrize("which", range(3))
def test_each_descriptor_is_compared(which):
    """One descriptor is off by a thousandth, then contains NaN, then is missing."""
    rows = [np.ones((2, side), np.float32) for side in (72, 3, 8)]

    def against(wrong):
        return compare(lambda x: rows, lambda x: [*rows[:which], *wrong, *rows[which + 1 :]], request, 1e-4)

    request = spec(descriptors=THREE, unit_length=True)
    assert against([rows[which]])[0] == [72, 3, 8]
    with pytest.raises(ExportError, match=f"encoder's {THREE[which]} differs from the live one by 1.0e-03"):
        against([rows[which] * 1.001])
    with pytest.raises(ExportError, match=f"encoder's {THREE[which]} differs from the live one by nan"):
        against([rows[which] * np.nan])
    with pytest.raises(ExportError, match="returns shapes .* defect of the export"):
        against([])


@pytest.mark.parametrize(("swapped", "passes"), [(1, True), (2, True), (3, False)])
def test_nodes_of_one_area_may_change_places_but_not_on_every_image(swapped, passes):
    """Two nodes of two channels; in the first ``swapped`` draws the second image has them in the other order."""
    drawn = []

    def live(images):
        return [np.ones((2, 6), np.float32), np.resize(np.float32([1, 2, 3, 4]), (2, 4))]

    def exported(images):
        drawn.append(images)
        omega_BD, phi_BD = live(images)
        if len(drawn) <= swapped:
            phi_BD[1] = [3, 4, 1, 2]
        return [omega_BD, phi_BD]

    request = spec(descriptors=("omega", "phi"))
    if passes:
        assert compare(live, exported, request, 1e-4)[1]["of_each"] == {"omega": 0.0, "phi": 0.0}
        assert len(drawn) == swapped + 1 and np.abs(drawn[0] - drawn[1]).max() > 1  # other images
    else:
        with pytest.raises(ExportError, match="encoder's phi differs from the live one by 5.0e-01"):  # 2 of 4
            compare(live, exported, request, 1e-4)


def test_a_fixed_batch_takes_no_other(tmp_path):
    export(tmp_path / "drone.onnx", spec(), "ONNX")
    images = np.ones((3, 3, 4, 6), np.float32)
    assert run_elsewhere(tmp_path / "drone.onnx", images[:2]).shape == (2, 4)
    with pytest.raises(Exception, match="Got: 3 Expected: 2"):
        run_elsewhere(tmp_path / "drone.onnx", images)


def test_any_batch_takes_all(tmp_path):
    export(tmp_path / "drone.mindir", spec(None), "MINDIR")
    for count in (1, 5):
        assert run_elsewhere(tmp_path / "drone.mindir", np.ones((count, 3, 4, 6), np.float32)).shape == (count, 4)
    assert json.loads((tmp_path / "drone.mindir.json").read_text())["input"]["shape"] == [None, 3, 4, 6]


def test_the_card_names_its_file(tmp_path):
    check = export(tmp_path / "drone.mindir", spec(), "MINDIR")
    card = json.loads((tmp_path / "drone.mindir.json").read_text())
    assert card["sha256"] == hashlib.sha256((tmp_path / "drone.mindir").read_bytes()).hexdigest()
    assert card["outputs"][0]["dimension"] == 4 and card["sides"] == {"query": "drone"} and card["format"] == "MINDIR"
    assert card["check"] == check and check["compared"] and check["largest_difference"] <= check["tolerance"] == 1e-5
    assert sorted(file.name for file in tmp_path.iterdir()) == ["drone.mindir", "drone.mindir.json"]


def test_an_encrypted_file_opens_only_with_its_key(tmp_path, capfd):
    from mindloc.inference.mindir import open_mindir

    path = tmp_path / "drone.mindir"
    export(path, spec(), "MINDIR", key=KEY)
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(run_elsewhere(path, images, KEY)[:, :3], images.mean((2, 3)), atol=1e-5)
    assert json.loads((tmp_path / "drone.mindir.json").read_text())["encryption"] == "AES-GCM"
    capfd.readouterr()
    with pytest.raises(ExportError, match="can't be decrypted with this key"):
        open_mindir(path, bytes(32))
    with pytest.raises(ExportError):
        open_mindir(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("file_format", "name"), FORMATS)
def test_a_file_whose_outputs_differ_is_never_written(tmp_path, monkeypatch, file_format, name):
    (tmp_path / name).write_text("older")
    writer = WRITERS[file_format]
    off = dataclasses.replace(writer, reload=lambda file, key: lambda x: [writer.reload(file, key)(x)[0] * 1.001])
    monkeypatch.setitem(WRITERS, file_format, off)
    with pytest.raises(
        ExportError, match=r"encoder's descriptor differs from the live one by 1.0e-03 of the largest entry"
    ):
        export(tmp_path / name, spec(), file_format)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "older"


def test_air_is_written_on_an_ascend_and_says_that_it_was_not_compared(tmp_path, monkeypatch):
    """With a stand-in for MindSpore's exporter, which refuses elsewhere."""

    def write(cell, example, file_name, file_format):
        assert file_format == "AIR" and example.shape == (2, 3, 4, 6)
        with open(file_name, "wb") as file:
            file.write(b"graph")

    monkeypatch.setattr("mindloc.export.formats.ms.export", write)
    check = export(tmp_path / "drone.air", spec(), "AIR")
    assert not check["compared"] and "atc" in check["why"]
    card = json.loads((tmp_path / "drone.air.json").read_text())
    assert card["outputs"][0]["dimension"] == 4 and card["sha256"] == hashlib.sha256(b"graph").hexdigest()


def test_a_graph_that_can_not_be_saved_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("Erf is not supported\n\nat line 3")

    monkeypatch.setattr("mindloc.export.formats.ms.export", refuse)
    with pytest.raises(
        ExportError, match="^MindSpore can't export .*: Erf is not supported; try another --file_format$"
    ):
        export(tmp_path / "drone.mindir", spec(), "MINDIR")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ExportError, match="can't write .*out/drone.mindir"):
        export(tmp_path / "out" / "drone.mindir", spec(), "MINDIR")
