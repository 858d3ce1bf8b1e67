"""The Python API: the examples of docs/api.md run, all kinds of images give the same result, errors name the cause."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_world import RUN_SETTINGS

import mindloc
from mindloc import api

PROJECT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def encoder(tiny_run):
    return mindloc.load(tiny_run, device="CPU", batch_size=4)


@pytest.fixture(scope="module")
def drone_images(tiny_world) -> list[Path]:
    return sorted((tiny_world / "drone" / "images").iterdir())


def test_the_package_exports_the_api_and_imports_it_on_first_use():
    assert mindloc.__all__ == api.__all__
    assert {name for name in dir(mindloc) if not name.startswith("_")} >= set(api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'locate'"):
        mindloc.locate  # noqa: B018
    code = "import sys, mindloc; print(*sorted({name.split('.')[0] for name in sys.modules} & {'numpy', 'mindspore'}))"
    code += "; mindloc.load; print('mindspore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT / "src", capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["", "False"]


@pytest.mark.slow
def test_the_examples_run(tiny_run, tiny_world, tmp_path, monkeypatch):
    """Run in a directory with a space in its name, where an unquoted path would fail."""
    place = tmp_path / "a place"
    place.mkdir()
    monkeypatch.chdir(place)
    tiles = tiny_world / "satellite"
    settings = [f"{key}={value}" for key, value in RUN_SETTINGS.items() if key not in ("train.epochs",)]
    given = {"run": tiny_run, "drone_images": tiny_world / "drone" / "images", "tiles": tiles, "root": tiny_world}
    names = {**given, "settings": [*settings, "run.device_target=CPU"]}
    for example in EXAMPLES:
        exec(example, names)
    assert names["queries"].shape[0] == 3 and len(names["best"]) == 3
    np.testing.assert_allclose(np.linalg.norm(names["queries"], axis=1), 1, atol=1e-6)
    assert names["trained"].views == ("drone", "satellite") and len(names["near"]) == 1
    assert names["near"][0][0].place is not None


def test_arrays_and_pil_images_give_the_same_descriptors(encoder, drone_images):
    """More images than a batch, and a last batch that is not full."""
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 50, 3), dtype=np.uint8) for i in range(6)]
    as_arrays = encoder.encode(images, "drone")["global"]
    as_pil = encoder.encode([Image.fromarray(image) for image in images], "drone")["global"]
    np.testing.assert_array_equal(as_arrays, as_pil)
    assert as_arrays.shape[0] == 6 and as_arrays.dtype == np.float32
    np.testing.assert_array_equal(encoder.encode(images[5], "drone")["global"], as_arrays[5:])
    stacked = np.stack([images[0][:40], images[1][:40]])
    np.testing.assert_array_equal(
        encoder.encode(stacked, "satellite")["global"], encoder.encode(list(stacked), "satellite")["global"]
    )


def test_encode_gives_the_same_descriptor_as_extract(encoder, drone_images, tmp_path):
    from mindloc.descriptors.sets import load_descriptor_set

    mindloc.extract(encoder, drone_images[0].parent, tmp_path / "set", view="drone")
    written = load_descriptor_set(tmp_path / "set")
    rows = written.descriptor_ND / np.linalg.norm(written.descriptor_ND, axis=1, keepdims=True)
    encoded = encoder.encode([str(path) for path in drone_images], "drone")["global"]
    np.testing.assert_allclose(encoded, rows, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "view", "message"),
    [
        ([], "drone", "no image to encode"),
        (
            np.zeros((4, 4, 3), np.float32),
            "drone",
            r"float32 of shape \(4, 4, 3\); expected uint8 .height, width, 3., RGB",
        ),
        ([np.zeros((4, 4), np.uint8)], "drone", r"uint8 of shape \(4, 4\)"),
        (np.zeros((4, 4), np.uint8), "drone", "expected uint8"),
        ([np.zeros((0, 4, 3), np.uint8)], "drone", "expected uint8"),
        ("nowhere.png", "drone", "nowhere.png is missing"),
        ([Path("nowhere.png")], "panorama", "view panorama is not among the drone and satellite images"),
    ],
)
def test_images_that_cannot_be_encoded_are_named(encoder, images, view, message):
    with pytest.raises(mindloc.MindlocError, match=message):
        encoder.encode(images, view)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "tensorflow"}, "engine 'tensorflow' does not exist; choose from mindspore, mindir, onnx"),
        ({"precision": "int8"}, "engine mindspore does not support precision 'int8'; choose from fp32"),
        ({"engine": "onnx"}, "export does not exist"),
        ({"view": "ground"}, "view ground is not among"),
    ],
)
def test_what_cannot_be_loaded_is_named(tiny_run, arguments, message):
    with pytest.raises(mindloc.MindlocError, match=message):
        mindloc.load(tiny_run, **arguments)


def test_an_encoder_of_one_view_rejects_the_other(encoder):
    lone = mindloc.Encoder(api.EngineRequest(), api.Source(encoder.config, ("query",), None, {}), encoder.config)
    with pytest.raises(mindloc.MindlocError, match="loaded for drone images only; load it with view='satellite'"):
        lone.encode(np.zeros((4, 4, 3), np.uint8), "satellite")


def test_a_search_needs_a_position_and_a_distance(encoder, tiny_world, tmp_path):
    mindloc.extract(encoder, tiny_world / "satellite", tmp_path / "tiles", view="satellite")
    with mindloc.build_index(tmp_path / "index", tmp_path / "tiles") as index:
        image = np.zeros((8, 8, 3), np.uint8)
        with pytest.raises(mindloc.MindlocError, match="belong together; give both or none"):
            index.search(encoder, image, view="drone", near=(1.0, 2.0))
        with pytest.raises(mindloc.MindlocError, match="has no places"):
            index.search(encoder, image, view="drone", near=(1.0, 2.0), within_m=5.0)
        answers = index.search(encoder, [image, image], view="drone", top=2)
        assert answers[0] == answers[1] and [len(each) for each in answers] == [2, 2]
        assert answers[0][0].score >= answers[0][1].score and answers[0][0].place is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.mean=[0, 0, 0]",
            "model.mean can't be set here: it is fixed by the checkpoint; only keys of data",
        ),
        ("model.backbone=base", "model.backbone can't be set here"),
        ("search.recall_n=5", "search.recall_n is 5; expected 100 with head.name=global"),
        ("eval.recall=5", "did you mean eval.recall_at"),
        ("data.on_bad_image=skip", "can't be set for an evaluation, which needs every image"),
    ],
)
def test_an_evaluation_takes_no_override_of_what_the_checkpoint_fixes(encoder, override, message, tmp_path):
    with pytest.raises(mindloc.MindlocError, match=message):
        mindloc.evaluate(encoder, tmp_path / "report", overrides=[override])
    assert not (tmp_path / "report").exists()


def test_exported_files_are_evaluated_with_images_of_their_size_only(encoder, tmp_path):
    view = encoder.config.view("query")
    file = SimpleNamespace(path="drone.onnx", size_px=view.size_px, mean=view.mean, std=view.std)
    source = api.Source(encoder.config, ("query",), None, {"query": file})
    of_files = mindloc.Encoder(api.EngineRequest(), source, encoder.config)
    with pytest.raises(mindloc.MindlocError, match=r"drone.onnx takes drone images of .* the config has \[16, 16\] px"):
        mindloc.evaluate(of_files, tmp_path / "report", overrides=["data.query_size_px=[16, 16]"])


def test_a_given_root_has_both_splits(encoder, tmp_path):
    other = encoder.config.with_values({"data.test_root": "elsewhere", "data.test_map_px": 9, "data.test_m_per_px": 9})
    assert other.with_root(tmp_path) == encoder.config.with_values({"data.root": str(tmp_path)})


def test_contradicting_arguments_of_train_are_an_error(tmp_path):
    with pytest.raises(mindloc.MindlocError, match="leave out config and run_directory"):
        mindloc.train("world_tiny", resume=tmp_path)
    with pytest.raises(mindloc.MindlocError, match="names several cards"):
        mindloc.train(overrides=["run.device_ids=[0, 1]"])
