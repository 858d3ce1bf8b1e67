"""Options of data, augmentation and sampling have the stated effect on batches."""

import cv2
import numpy as np
import pytest

from mindloc.config import load_config
from mindloc.data.loader import ImageBatches
from mindloc.data.readers import read_split
from mindloc.data.sampler import build_sampler
from mindloc.errors import DataError, ImageError
from mindloc.training import dataset
from mindloc.training.dataset import build_train_data, targets_of
from mindloc.training.resume import Progress

SIZES = {"data.query_size_px": [32, 32], "data.reference_size_px": [32, 32], "data.map_px": 1024, "data.m_per_px": 0.5}
STILL = {f"augment.{name}_p": 0.0 for name in ("flip", "jpeg", "color", "filter", "dropout")}
STILL |= {"augment.rotate_query": False, "augment.rotate_reference": False}


def train_data_of(config, epoch=0):
    split, train = read_split(config.data, "train"), config.train
    sampler = build_sampler(split, config.data.train_mode, config.sampling, train.batch_size, train.seed)
    return build_train_data(config, split, sampler, targets_of(config, split, ("iou",)), progress=Progress(epoch=epoch))


@pytest.fixture
def batches(gta_root):
    """(query, reference) (N, 3, 32, 32) of four epochs with the given options; all other options are off."""

    def read(options: dict) -> tuple[np.ndarray, np.ndarray]:
        words = {**SIZES, **STILL, "data.root": gta_root, "data.train_pairs": "train.json", "sampling.mode": "random"}
        words |= {"train.batch_size": 2, "data.workers": 1, **options}
        config = load_config(None, [f"{key}={value}" for key, value in words.items()])
        read_so_far = []
        for epoch in range(4):
            data = train_data_of(config, epoch)
            with data.clear_errors():
                read_so_far += data.dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
        return tuple(np.concatenate([batch[column] for batch in read_so_far]) for column in (0, 1))

    return read


def holes(images: np.ndarray) -> float:
    """Fraction of black pixels: 0 is (0 - 0.5) / 0.5 = -1."""
    return float((images <= -1).all(axis=1).mean())


def test_a_flip_mirrors_both_images_of_every_pair(batches):
    for flipped, still in zip(batches({"augment.flip_p": 1.0}), batches({}), strict=True):
        np.testing.assert_array_equal(flipped, still[..., ::-1])


def test_without_augmentation_images_are_unchanged(batches):
    off = batches({"augment.enabled": False, "augment.flip_p": 1.0, "augment.jpeg_p": 1.0})
    for plain, still in zip(off, batches({}), strict=True):
        np.testing.assert_allclose(plain, still, atol=1e-6)


def test_lower_jpeg_quality_changes_pixels_more(batches):
    still = batches({})[0]
    fine, coarse = (
        np.abs(batches({"augment.jpeg_p": 1.0, "augment.jpeg_quality": quality})[0] - still).mean()
        for quality in ([99, 100], [1, 2])
    )
    assert 0 < fine < coarse


def test_color_jitter_of_zero_changes_nothing(batches):
    still = batches({})[0]
    none, bright = (
        np.abs(batches({"augment.color_p": 1.0, "augment.color_jitter": jitter})[0] - still).max()
        for jitter in ([0, 0, 0, 0], [0.5, 0, 0, 0])
    )
    assert none < 0.02 < bright  # a gray level is 2 / 255 = 0.008


@pytest.mark.parametrize(
    ("key", "few", "many"),
    [
        ("augment.grid_dropout_ratio", 0.1, 0.8),
        ("augment.coarse_dropout_holes", [1, 1], [20, 25]),
        ("augment.coarse_dropout_side", [0.05, 0.05], [0.4, 0.4]),
    ],
)
def test_larger_and_more_holes_hide_more(batches, key, few, many):
    # one of the two kinds is drawn for each image: the other kind gets tiny holes
    small = {"augment.grid_dropout_ratio": 0.1, "augment.coarse_dropout_holes": [2, 2]}
    small |= {"augment.coarse_dropout_side": [0.05, 0.05], "augment.dropout_p": 1.0}
    assert holes(batches({**small, key: few})[0]) < holes(batches({**small, key: many})[0])


def test_query_images_are_rotated_by_quarter_turns_and_references_are_not(batches):
    turned, still = batches({"augment.rotate_query": True}), batches({})
    np.testing.assert_array_equal(turned[1], still[1])
    quarters = [
        next(k for k in range(4) if np.array_equal(image, np.rot90(before, k, (1, 2))))
        for image, before in zip(turned[0], still[0], strict=True)
    ]
    assert len(set(quarters)) > 1


def test_a_bad_image_stops_or_is_skipped(batches, gta_root):
    gray = np.full((16, 16, 3), 127, np.uint8)
    for number in (1, 3):
        cv2.imwrite(str(gta_root / "drone" / "images" / f"100_0001_000000000{number}.png"), gray)
    (gta_root / "drone" / "images" / "100_0001_0000000002.png").write_bytes(b"no image")
    skipped = batches({"data.on_bad_image": "skip", "train.batch_size": 4})[0]
    black = (skipped == -1).all(axis=(1, 2, 3))  # one of the five pairs, at any position in an epoch
    assert black.any() and not black.all()
    with pytest.raises(ImageError, match="0000000002"):
        batches({"data.on_bad_image": "stop", "train.batch_size": 4})


@pytest.mark.parametrize("target", ["CPU", "Ascend", "GPU"])
def test_batch_memory_is_reused_on_cpus_only(gta_root, monkeypatch, target):
    monkeypatch.setattr(dataset.ms, "get_context", {"device_target": target}.get)
    words = {**SIZES, "data.root": gta_root, "data.train_pairs": "train.json", "sampling.mode": "random"}
    config = load_config(None, [f"{key}={value}" for key, value in {**words, "train.batch_size": 2}.items()])
    stream = train_data_of(config)._stream
    assert sum(1 for _ in stream) > 0
    assert bool(len(stream._arrays["query"])) == (target == "CPU")  # arrays that are kept for later steps


def test_the_test_map_has_its_own_side(gta_root):
    words = {**SIZES, "data.root": gta_root, "data.test_pairs": "train.json", "data.test_map_px": 2048}
    config = load_config(None, [f"{key}={value}" for key, value in words.items()])
    with pytest.raises(DataError, match=r"fit a map of 512 m, but data.test_map_px=2048 .* of 1024 m"):
        read_split(config.data, "test")
    # 2048 px at 0.25 m/px cut twice: tiles of 256 m
    data = config.with_values({"data.test_m_per_px": 0.25}).data
    assert read_split(data, "test").reference.places.coordinate_N2.tolist() == [
        [128, 128],
        [128, 384],
        [384, 128],
        [384, 384],
    ]


@pytest.mark.parametrize(("side", "lightest"), [("query", -1.0), ("reference", 1.0)])
def test_only_query_images_are_cropped(tmp_path, side, lightest):
    # a black image with a white frame of an eighth; black is (0 - 0.5) / 0.5 = -1, white 1
    image = np.full((32, 32, 3), 255, np.uint8)
    image[4:28, 4:28] = 0
    cv2.imwrite(str(tmp_path / "framed.png"), image)
    words = {"data.query_size_px": [16, 16], "data.reference_size_px": [16, 16], "augment.cut_border": 0.125}
    view = load_config(None, [f"{key}={value}" for key, value in words.items()]).view(side)
    ((batch, count),) = ImageBatches(view, [tmp_path / "framed.png"], batch_size=1)
    assert (count, batch.shape, batch.min(), batch.max()) == (1, (1, 3, 16, 16), -1.0, lightest)
