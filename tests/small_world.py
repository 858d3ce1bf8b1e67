"""A generated world and a training on it that take seconds, for tests of whole commands."""

WORLD = "--map_px 1024 --zooms 3 4 --tile_size_px 64 --drone_size_px 48 64 --flights 2"
SETTINGS = {
    "data.train_pairs": "same-area-drone2sate-train.json",
    "data.test_pairs": "same-area-drone2sate-test.json",
    "data.map_px": 1024,
    "data.m_per_px": 0.3,
    "data.drone_size_px": [32, 32],
    "data.satellite_size_px": [32, 32],
    "sampling.mode": "masked",
    "model.backbone": "tiny",
    "model.reference_grid": 2,
    "train.batch_size": 8,
    "eval.batch_size": 16,
}


def world_words(drones: int) -> list[str]:
    """Arguments of ``mindloc world`` besides the folder: so many drone pictures."""
    return [*WORLD.split(), "--drones", str(drones)]


def set_words(settings: dict) -> list[str]:
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def save_untrained(path, **settings) -> None:
    """A checkpoint of an encoder of these settings, over those of above, as it begins."""
    import mindspore as ms

    from mindloc.config import config_to_dict, load_config
    from mindloc.models.build import build_encoder
    from mindloc.runtime.checkpoint import save_weights

    ms.set_context(mode=ms.GRAPH_MODE)
    config = load_config(overrides=set_words({**SETTINGS, **settings})[1::2])
    arrays = {name: value.asnumpy() for name, value in build_encoder(config).parameters_and_names()}
    save_weights(path, arrays, config_to_dict(config), epoch=0)
