"""The MindSpore engine: one shape for all batches, descriptors that do not depend on their neighbors."""

import numpy as np
import pytest

from mindloc.config import config_to_dict, load_config
from mindloc.errors import CheckpointError, DataError

SETTINGS = ["model.backbone=tiny", "data.query_size_px=[32, 48]", "data.reference_size_px=[32, 32]"]


@pytest.fixture(scope="module")
def encoder():
    ms = pytest.importorskip("mindspore")
    from mindloc.models.build import build_encoder

    ms.set_context(mode=ms.GRAPH_MODE)
    return build_encoder(load_config(overrides=SETTINGS))


@pytest.fixture(scope="module")
def arrays(encoder):
    return {name: parameter.asnumpy() for name, parameter in encoder.parameters_and_names()}


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((5, 3, 32, 48)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(encoder):
    from mindloc.inference.engine import MindSporeEngine

    return MindSporeEngine(encoder, batch_size=4)


def save(path, arrays, settings=SETTINGS):
    from mindloc.runtime.checkpoint import save_weights

    return save_weights(path, arrays, config_to_dict(load_config(overrides=settings)), epoch=1)


def test_a_batch_of_one_equals_a_batch_of_many(engine, images):
    together = engine.encode({"query": images[:4]})["query.global"]
    alone = np.concatenate([engine.encode({"query": images[i : i + 1]})["query.global"] for i in range(4)])
    assert together.shape == (4, 192) and together.dtype == np.float32
    np.testing.assert_array_equal(alone, together)


def test_the_batch_size_of_the_engine_does_not_matter(encoder, engine, images):
    from mindloc.inference.engine import MindSporeEngine

    single = MindSporeEngine(encoder, batch_size=1)
    alone = np.concatenate([single.encode({"query": images[i : i + 1]})["query.global"] for i in range(4)])
    together = engine.encode({"query": images[:4]})["query.global"]
    np.testing.assert_allclose(alone, together, atol=1e-5 * np.abs(together).max())


def test_an_encoder_in_training_continues_training(encoder, engine, images):
    encoder.set_train(True)
    engine.encode({"query": images[:1]})
    assert encoder.training
    encoder.set_train(False)


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_that_does_not_fit_is_refused(engine, images, count):
    with pytest.raises(DataError, match=f"a batch has {count} query images, but the engine takes 1 to 4"):
        engine.encode({"query": images[:count]})


def test_a_loaded_checkpoint_equals_the_live_encoder(engine, arrays, images, tmp_path):
    from mindloc.inference.build import load_engine

    sha256 = save(tmp_path / "weights.safetensors", arrays)
    loaded, config = load_engine(tmp_path / "weights.safetensors", batch_size=4)
    assert loaded.checkpoint_sha256 == sha256 and config.data.query_size_px == (32, 48)
    live = engine.encode({"query": images[:4]})["query.global"]
    np.testing.assert_array_equal(loaded.encode({"query": images[:4]})["query.global"], live)


def test_weights_of_a_different_model_are_named(arrays, tmp_path):
    from mindloc.inference.build import load_engine

    save(tmp_path / "weights.safetensors", arrays, [*SETTINGS, "model.backbone=compact"])
    with pytest.raises(CheckpointError, match="belongs to another model"):
        load_engine(tmp_path / "weights.safetensors")


def test_broken_weights_are_named(arrays, tmp_path):
    from mindloc.inference.build import load_engine

    broken = {**arrays, "log_logit_scale": np.array([np.nan], np.float32)}
    save(tmp_path / "weights.safetensors", broken)
    with pytest.raises(CheckpointError, match="log_logit_scale contains NaN"):
        load_engine(tmp_path / "weights.safetensors")
