"""Files and cards from anywhere: changed, swapped and malicious ones are refused in one line and never run."""

import dataclasses
import hashlib
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from exported_sides import exported_files

pytest.importorskip("mindspore")
pytest.importorskip("onnxruntime")

import onnx

from mindloc.errors import ConfigError, DeviceError, ExportError
from mindloc.inference import onnx as onnx_file
from mindloc.inference.build import EngineRequest, read_source, start_engine
from mindloc.inference.exported import AbsentError, ExportedFile, read_card, require_one_origin
from mindloc.inference.onnx import require_plain_graph
from mindloc.runtime.packages import ONE_RELU


@pytest.fixture
def directory(exported, tmp_path):
    """A copy to tamper with."""
    shutil.copytree(exported[1], tmp_path / "export")
    return tmp_path / "export"


def choose(place, side, precision):
    return exported_files(place, "ONNX", (side,), precision)[side]


def change_card(path, **changes):
    card = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            card[section][name] = value
        else:
            card[section] = value
    path.write_text(json.dumps(card))


def outputs(*names):
    return [{"name": name, "dimension": 4, "length": "1"} for name in names]


def test_a_tampered_file_is_not_opened(directory):
    content = bytearray((directory / "drone.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (directory / "drone.onnx").write_bytes(content)
    file = read_card(directory / "drone.onnx")
    with pytest.raises(ExportError, match="drone.onnx is not the one that its card names .sha256 differs"):
        onnx_file.open_onnx(file, onnx_file.Provider(onnx_file.CPU))
    (directory / "drone.onnx").unlink()
    with pytest.raises(ExportError, match="drone.onnx is missing, only its card is there"):
        file.require_intact()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has version 2, expected 1; export again"),
        ({"sides": {"left": "drone"}}, "side 'left' is not among query, reference"),
        ({"sides": {"query": ""}}, "view is '', expected a name such as drone"),
        ({"sides": {"query": 3}}, "view is 3, expected a name such as drone"),
        ({"sides": {}}, "names no side of the encoder"),
        ({"sides": ["query"]}, "can't be used"),
        ({"format": "MINDIR"}, "format 'MINDIR' does not fit the name drone.onnx"),
        ({"file": "satellite.onnx"}, "it is the card of 'satellite.onnx'"),
        ({"outputs": [{"name": "descriptor", "dimension": 10**12}]}, "dimension is 1000000000000, expected 1 to"),
        ({"outputs": [{"name": "descriptor"}]}, "lacks 'dimension'"),
        ({"outputs": []}, r"outputs are \[\], expected descriptor, or omega, phi"),
        ({"outputs": outputs("omega")}, "outputs are .'omega'., expected"),
        ({"outputs": outputs("phi", "omega")}, "outputs are .'phi', 'omega'., expected"),
        ({"outputs": outputs("descriptor", "descriptor")}, "expected descriptor, or omega, phi and maybe centroids"),
        ({"outputs": None}, "can't be used"),
        ({"input__shape": [10**9, 3, 32, 48]}, "batch is 1000000000"),
        ({"input__shape": [1, 3, 32]}, "its input is float32 of shape"),
        ({"input__dtype": "float64"}, "its input is float64 of shape"),
        ({"input__std": [1, 1, 0]}, "mean"),
        ({"precision": "int4"}, "precision 'int4' is not among"),
        ({"config": None}, "its config is not an object"),
        ({"input": None}, "can't be used"),
    ],
)
def test_a_card_with_impossible_values_is_named(directory, changes, message):
    change_card(directory / "drone.onnx.json", **changes)
    with pytest.raises(ExportError, match=message):
        read_card(directory / "drone.onnx")


@pytest.mark.parametrize("text", ["", "[]", "{" * 5000, " " * (1 << 21)])
def test_a_file_that_is_not_a_card_is_named(directory, text):
    (directory / "drone.onnx.json").write_text(text)
    with pytest.raises(ExportError, match="drone.onnx.json"):
        read_card(directory / "drone.onnx")


def test_the_file_with_the_side_and_precision_is_chosen(directory):
    assert choose(directory, "query", None).path == directory / "drone.onnx"
    assert choose(directory / "drone.onnx", "query", None).path == directory / "drone.onnx"
    for name in ("drone.onnx", "drone.onnx.json"):
        shutil.copy(directory / name, directory / name.replace("drone", "half"))
    change_card(directory / "half.onnx.json", file="half.onnx", precision="fp16")
    assert choose(directory, "query", None).path == directory / "drone.onnx"
    assert choose(directory, "query", "fp16").path == directory / "half.onnx"
    change_card(directory / "half.onnx.json", precision="fp32")
    with pytest.raises(ExportError, match="several ONNX files of the query side, name one: drone.onnx, half.onnx"):
        choose(directory, "query", None)


def test_missing_files_are_named(directory):
    for place, precision, message in (
        (directory / "nowhere", None, "nowhere does not exist"),
        (directory, "fp16", "contains no ONNX file of the reference side in fp16, only in fp32"),
        (directory / "drone.onnx", None, "contains no ONNX file of the reference side"),
    ):
        with pytest.raises(AbsentError, match=message):
            choose(place, "reference", precision)
    with pytest.raises(ExportError, match="drone.mindir is not in ONNX format"):
        choose(directory / "drone.mindir", "query", None)


@pytest.mark.parametrize(
    ("view", "side", "name"), [("drone", "query", "drone"), ("satellite", "reference", "satellite")]
)
@pytest.mark.parametrize("by", ["checkpoint", "files"])
def test_a_view_selects_the_side_with_this_view(exported, directory, by, view, side, name):
    given = {"checkpoint": exported[0]} if by == "checkpoint" else {}
    source = read_source(EngineRequest("onnx", exported=directory, **given), view=view)
    assert source.sides == (side,) == (source.side,) and source.files[side].path == directory / f"{view}.onnx"
    live = read_source(EngineRequest(checkpoint=exported[0]), view=view)
    assert live.side == side and live.files == {} and live.checkpoint_sha256 == source.checkpoint_sha256


@pytest.mark.parametrize("engine", ["mindspore", "onnx"])
def test_the_error_of_an_unknown_view_names_the_views_of_the_data(exported, directory, engine):
    request = EngineRequest(engine, checkpoint=exported[0], exported=None if engine == "mindspore" else directory)
    message = "view ground is not among the drone and satellite images of data.reader=gta_uav; give --view drone or sat"
    with pytest.raises(ConfigError, match=message):
        read_source(request, view="ground")


def test_sides_of_different_checkpoints_are_refused(directory):
    change_card(directory / "drone.onnx.json", checkpoint_sha256="0" * 64)
    with pytest.raises(ExportError, match="come from different checkpoints"):
        require_one_origin(exported_files(directory, "ONNX"))


def test_sides_with_different_descriptors_are_refused(directory):
    change_card(directory / "drone.onnx.json", outputs=outputs("omega", "phi"))
    with pytest.raises(ExportError, match="return different descriptors according to their cards; export both again"):
        require_one_origin(exported_files(directory, "ONNX"))


def test_files_of_a_different_checkpoint_are_refused(directory):
    files = exported_files(directory, "ONNX")
    require_one_origin(files, files["query"].checkpoint_sha256)
    with pytest.raises(ExportError, match="exported from a different checkpoint"):
        require_one_origin(files, "0" * 64)


def test_a_file_for_images_that_differ_from_the_config_is_refused(directory):
    change_card(directory / "drone.onnx.json", input__mean=[0.1, 0.1, 0.1])
    request = EngineRequest("onnx", exported=directory)
    source = read_source(request, ("query",))
    with pytest.raises(ExportError, match="takes drone images of .* mean .*; .* export the checkpoint again"):
        start_engine(request, source, source.config)


# Graphs that mindloc did not write.

GRAY, ONE = (0.5,) * 3, {"global": 3}
CARD = ExportedFile(None, "ONNX", {"query": "drone"}, "fp32", 1, (4, 4), False, GRAY, GRAY, ONE, False, "", "", {})


def graph(*nodes, shape=(1, 3, 4, 4), weights=(), more_inputs=(), results=("descriptor",), opsets=(("", 11),)):
    float_info = onnx.helper.make_tensor_value_info
    entry = [float_info("images", onnx.TensorProto.FLOAT, shape), *more_inputs]
    results = [float_info(name, onnx.TensorProto.FLOAT, None) for name in results]
    made = onnx.helper.make_graph(list(nodes), "g", entry, results, list(weights))
    opset_imports = [onnx.helper.make_opsetid(*opset) for opset in opsets]
    return onnx.helper.make_model(made, opset_imports=opset_imports, ir_version=4)


def node(kind, *inputs, **attributes):
    return onnx.helper.make_node(kind, list(inputs), ["descriptor"], **attributes)


def external():
    weights = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="../../etc/passwd")
    return weights


def huge():
    """A constant of two numbers that would need 40 GB."""
    return onnx.numpy_helper.from_array(np.array([100_000, 100_000], np.int64), "size")


def loop():
    body = onnx.helper.make_graph([], "body", [], [])
    return onnx.helper.make_node("Loop", ["", "", "images"], ["descriptor"], body=body)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (graph(node("Add", "images", "w"), weights=[external()]), "weights w are in another file"),
        (graph(node("Constant", value=external())), "a constant of Constant is in another file"),
        (
            graph(node("ConstantOfShape", "size"), weights=[huge()]),
            "a result of ConstantOfShape has 10000000000 numbers",
        ),
        (graph(loop()), "operator Loop contains a graph itself"),
        (graph(node("Run", "images", domain="evil"), opsets=(("", 11), ("evil", 1))), "Run is from the library evil"),
        (graph(node("NonZero", "images")), "a result of NonZero has no fixed size"),
        (graph(node("Relu", "images"), shape=(64, 3, 4, 4)), r"input is float32 \(64, 3, 4, 4\), but its card says"),
        (graph(node("Relu", "images"), shape=("any", 3, 4, 4)), r"input is float32 \(None, 3, 4, 4\)"),
        (
            graph(
                node("Relu", "images"),
                more_inputs=[onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, [1])],
            ),
            "it has 2 inputs",
        ),
        (
            graph(node("Relu", "images"), results=("descriptor", "images")),
            "it returns descriptor, images, but its card",
        ),
        (graph(node("Relu", "images"), results=()), "it returns , but its card says descriptor"),
    ],
)
def test_graphs_that_mindloc_does_not_write_are_refused(tmp_path, model, message):
    file = dataclasses.replace(CARD, path=tmp_path / "drone.onnx")
    with pytest.raises(ExportError, match=f"drone.onnx was not exported by mindloc: .*{message}.*; it is not run"):
        require_plain_graph(model.SerializeToString(), file)


def test_a_plain_graph_passes(tmp_path):
    model = graph(node("Relu", "images"))
    path = tmp_path / "drone.onnx"
    path.write_bytes(model.SerializeToString())
    file = dataclasses.replace(CARD, path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    run = onnx_file.open_onnx(file, onnx_file.Provider(onnx_file.CPU))
    assert run(np.full((1, 3, 4, 4), -1, np.float32))[0].max() == 0


def test_outputs_with_other_names_are_refused(tmp_path):
    file = dataclasses.replace(CARD, path=tmp_path / "drone.onnx", dimensions={"omega": 4, "phi": 3})
    with pytest.raises(ExportError, match="it returns descriptor, but its card says omega, phi; it is not run"):
        require_plain_graph(graph(node("Relu", "images")).SerializeToString(), file)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"PK\x03\x04"])
def test_a_file_that_is_not_a_graph_is_named(tmp_path, content):
    with pytest.raises(ExportError, match="drone.onnx"):
        require_plain_graph(content, dataclasses.replace(CARD, path=tmp_path / "drone.onnx"))


# Providers of ONNX Runtime.


class Session:
    """A fake session of ONNX Runtime, which drops providers that do not start."""

    got = ["CPUExecutionProvider"]

    def __init__(self, content, options, providers):
        self.requested = providers

    def get_providers(self):
        return self.got


@pytest.fixture
def with_cuda(monkeypatch):
    """A GPU build of ONNX Runtime on a machine without a working GPU."""
    import onnxruntime

    there = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda directory: None, raising=False)


def test_a_build_without_cuda_is_reported_and_never_silently_replaced():
    with pytest.raises(
        DeviceError, match="no CUDAExecutionProvider, .*pip install 'onnxruntime-gpu.*--allow_cpu_provider"
    ):
        onnx_file.choose_provider("GPU", 0)
    allowed = onnx_file.choose_provider("GPU", 0, allow_cpu=True)
    assert allowed.name == "CPUExecutionProvider" and "no CUDAExecutionProvider" in allowed.note
    assert onnx_file.choose_provider("auto", 0) == onnx_file.Provider("CPUExecutionProvider")


def test_a_silently_dropped_provider_is_detected(with_cuda):
    with pytest.raises(DeviceError, match="CUDAExecutionProvider did not start on device 2.*doctor"):
        onnx_file.choose_provider("GPU", 2)
    for allowed in (onnx_file.choose_provider("GPU", 2, allow_cpu=True), onnx_file.choose_provider("auto", 0)):
        assert allowed.name == "CPUExecutionProvider" and "did not start" in allowed.note
    assert onnx_file.choose_provider("CPU", 0).note is None


def test_a_provider_that_starts_is_kept(with_cuda, monkeypatch, tmp_path):
    monkeypatch.setattr(Session, "got", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert onnx_file.choose_provider("auto", 1) == onnx_file.Provider("CUDAExecutionProvider", 1)
    session = onnx_file.open_session(b"", tmp_path / "x.onnx", onnx_file.Provider("CUDAExecutionProvider", 3))
    assert session.requested == [("CUDAExecutionProvider", {"device_id": "3", "use_tf32": "0"}), "CPUExecutionProvider"]
    with pytest.raises(DeviceError, match="TensorrtExecutionProvider did not start"):
        onnx_file.choose_provider("GPU", 1, tensorrt=True)


@pytest.mark.parametrize(
    ("target", "tensorrt", "message"),
    [("Ascend", False, "CPU and GPU"), ("CPU", True, "the target is CPU; add --device_target GPU, or leave it out")],
)
def test_targets_without_a_provider_are_errors(target, tensorrt, message):
    with pytest.raises(DeviceError, match=message):
        onnx_file.choose_provider(target, 0, tensorrt)


def test_the_graph_that_tests_providers_computes_a_relu():
    session = onnx_file.open_session(ONE_RELU, "one relu", onnx_file.Provider(onnx_file.CPU))
    for x in (-2.0, 3.0):
        assert session.run(["y"], {"x": np.array([x], np.float32)})[0] == max(x, 0.0)


def test_missing_libraries_are_named(with_cuda, monkeypatch, capfd):
    """ONNX Runtime writes the reason only to its log, which does not reach the console."""

    def complain(directory):
        print("Failed to load libcurand.so.10: libcurand.so.10: cannot open shared object file: No such file")
        os.write(2, b"Failed to load library x.so with error: libcublasLt.so.13: cannot open shared object file\n")

    monkeypatch.setattr(onnx_file.optional_module("onnxruntime"), "preload_dlls", complain)
    with pytest.raises(
        DeviceError, match="did not start on device 0: libcublasLt.so.13, libcurand.so.10 not found .*pip install"
    ):
        onnx_file.choose_provider("GPU", 0)
    assert capfd.readouterr() == ("", "")
    os.write(2, b"heard again\n")
    assert capfd.readouterr().err == "heard again\n"


def test_a_file_with_a_name_that_is_not_unicode_is_not_onnx():
    """A model (field 7: graph, 5 bytes) with a node (field 1, 3 bytes) whose input (field 1, 1 byte) is 0xad."""
    content = b"\x3a\x05\x0a\x03\x0a\x01\xad"
    with pytest.raises(ExportError, match="x.onnx is not an ONNX file; export again"):
        require_plain_graph(content, SimpleNamespace(path="x.onnx"))
