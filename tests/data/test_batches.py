"""From plans and files to batches on the device: order, columns, resume, shards, unreadable images."""

import logging
from dataclasses import replace

import cv2
import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindloc.config import config_from_dict
from mindloc.config.sections import AugmentConfig
from mindloc.data.augment import augment, draw_augmentation
from mindloc.data.images import read_image, resize
from mindloc.data.loader import ImageBatches, PairStream
from mindloc.data.readers import read_split
from mindloc.data.sampler import EpochPlan, build_sampler
from mindloc.errors import DataError, ImageError
from mindloc.training.dataset import TrainData, build_train_data, targets_of
from mindloc.training.resume import Progress
from mindloc.vocabulary import ViewSpec

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (32, 32)
DRONE, TILE = (ViewSpec(name, SIZE, rotate=True, mean=MEAN, std=STD) for name in ("drone", "satellite"))
VIEWS = {"query": DRONE, "reference": TILE}
OFF = AugmentConfig(enabled=False)
PAIRS = 8  # pair p: drone image p with tile p % 4


class FixedPlans:
    """A fake sampler: epoch e has the batches of ``plans[e]``."""

    def __init__(self, *plans):
        self.plans = [EpochPlan(np.array(plan, np.int64), report=f"report {e}") for e, plan in enumerate(plans)]

    def wait(self, epoch):
        """Every epoch can be planned."""

    def plan(self, epoch):
        return self.plans[epoch % len(self.plans)]

    def mask(self, pair_G):
        """All cells of real pairs, except those of the same tile off the diagonal."""
        real = pair_G >= 0
        same_tile = (pair_G[:, None] % 4 == pair_G[None, :] % 4) & ~np.eye(len(pair_G), dtype=bool)
        return real[:, None] & real[None, :] & ~same_tile


PLANS = (
    [[0, 1, 2, 3], [7, 6, 5, 4], [0, 5, 2, 7]],
    [[3, 2, 1, 0]],
    [[4, 5, 6, -1], [1, 2, 3, 0], [6, 7, 0, 1], [-1, -1, 5, 2], [3, 3, 3, 3]],
    [[0, 6, 1, 7], [5, 4, 3, 2]],
)


@pytest.fixture
def directory(tmp_path):
    """Eight drone images (JPEG, 48 x 40) and four tiles (PNG, 40 x 40), each of a different color."""
    random = np.random.default_rng(0)
    for name, count, (height, width) in (("drone{}.jpg", PAIRS, (40, 48)), ("tile{}.png", 4, (40, 40))):
        for index in range(count):
            coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / name.format(index)), cv2.resize(coarse, (width, height)))
    return tmp_path


def drone_files(directory):
    return [directory / f"drone{i}.jpg" for i in range(PAIRS)]


def stream(directory, plans=PLANS, **options):
    given = {"views": VIEWS, "settings": AugmentConfig(), "seed": 7}
    return PairStream(
        paths={"query": drone_files(directory), "reference": [directory / f"tile{i}.png" for i in range(4)]},
        pair_P2=np.array([[p, p % 4] for p in range(PAIRS)], np.int32),
        targets={"iou": np.linspace(0.2, 0.9, PAIRS, dtype=np.float32)},
        sampler=FixedPlans(*plans),
        **{**given, **options},
    )


def batches(data, epochs):
    """For each epoch a list of (query, reference, mask, iou)."""
    iterator = data.dataset.create_tuple_iterator(num_epochs=epochs, output_numpy=True)
    return [[tuple(column.copy() for column in row) for row in iterator] for _ in range(epochs)]


def read(directory, epochs=4, **options):
    return batches(TrainData(stream(directory, **options)), epochs)


def image_batches(paths, batch_size, **options):
    return ImageBatches(DRONE, paths, batch_size, **options)


def assert_same(some, other):
    assert [len(epoch) for epoch in some] == [len(epoch) for epoch in other]
    for epoch, epoch_too in zip(some, other, strict=True):
        for batch, batch_too in zip(epoch, epoch_too, strict=True):
            for column, column_too in zip(batch, batch_too, strict=True):
                assert column.tobytes() == column_too.tobytes()


def load(path):
    return read_image(path).pixels_HW3


def normalized(image_HW3):
    return ((image_HW3 / 255 - MEAN) / STD).transpose(2, 0, 1)


# ---- batches


def test_epochs_of_different_length_are_complete(directory):
    data = TrainData(stream(directory))
    assert data.dataset.get_dataset_size() == 3
    assert [data.steps(e) for e in range(4)] == [3, 1, 5, 2]
    assert data.report(1) == "report 1"
    assert [len(epoch) for epoch in batches(data, 4)] == [3, 1, 5, 2]


def test_columns_are_what_the_training_step_expects(directory):
    data = TrainData(stream(directory))
    assert data.dataset.get_col_names() == ["query", "reference", "mask", "iou"]
    for batch in batches(data, 1)[0]:
        assert [column.shape for column in batch] == [(4, 3, 32, 32), (4, 3, 32, 32), (4, 4), (4,)]
        assert [column.dtype for column in batch] == [np.float32, np.float32, bool, np.float32]


def test_every_row_is_the_pair_of_the_plan(directory):
    """Each row is recomputed from the file and the drawn parameters."""
    for epoch, rows in enumerate(read(directory)):
        for pairs, (query, reference, mask, weight) in zip(PLANS[epoch], rows, strict=True):
            for row, pair in enumerate(pairs):
                if pair < 0:
                    assert weight[row] == 0 and not mask[row].any() and not mask[:, row].any()
                    np.testing.assert_allclose(query[row], normalized(np.zeros((*SIZE, 3))), atol=1e-5)
                    continue
                assert weight[row] == pytest.approx(0.2 + 0.1 * pair)
                change = draw_augmentation(7, epoch, pair, AugmentConfig(), VIEWS)
                image = augment(load(directory / f"drone{pair}.jpg"), change["query"], SIZE)
                np.testing.assert_allclose(query[row], normalized(image), atol=1e-5)
                image = augment(load(directory / f"tile{pair % 4}.png"), change["reference"], SIZE)
                np.testing.assert_allclose(reference[row], normalized(image), atol=1e-5)


def test_the_mask_of_the_sampler_is_passed_on_unchanged(directory):
    mask = read(directory, epochs=1)[0][2][2]  # pairs 0 5 2 7: tiles 0 1 2 3, all differ
    assert mask.all()
    mask = batches(TrainData(stream(directory, plans=([[0, 4, 1, 2]],))), 1)[0][0][2]  # 0 and 4: tile 0
    assert not mask[0, 1] and not mask[1, 0] and mask.sum() == 14


def test_the_number_of_workers_does_not_change_any_byte(directory):
    assert_same(read(directory, workers=1), read(directory, workers=2))


def test_a_different_seed_changes_pixels_but_not_the_order(directory):
    some, other = read(directory, epochs=1)[0], read(directory, epochs=1, seed=8)[0]
    assert not np.array_equal(some[0][0], other[0][0])
    np.testing.assert_array_equal(some[0][3], other[0][3])


@pytest.mark.parametrize("start", [(0, 1), (2, 0), (2, 3), (3, 1)])
def test_resuming_continues_with_the_same_bytes(directory, start):
    epoch, step = start
    whole = read(directory)[epoch:]
    whole[0] = whole[0][step:]
    assert_same(read(directory, epochs=4 - epoch, start=start), whole)


def test_a_start_beyond_the_epoch_is_an_error(directory):
    with pytest.raises(ValueError, match="step 1 of 1 in epoch 1"):
        stream(directory, start=(1, 1))


@pytest.mark.parametrize("skip_bad", [False, True])
def test_two_devices_share_one_global_batch(directory, skip_bad):
    if skip_bad:
        spoil(directory / "drone4.jpg", "empty")
    whole = read(directory, skip_bad=skip_bad)
    parts = [read(directory, shard=(rank, 2, 1), skip_bad=skip_bad) for rank in range(2)]
    for epoch in range(4):
        for step, (query, reference, mask, weight) in enumerate(whole[epoch]):
            halves = [part[epoch][step] for part in parts]
            np.testing.assert_array_equal(np.concatenate([half[0] for half in halves]), query)
            np.testing.assert_array_equal(np.concatenate([half[1] for half in halves]), reference)
            for half in halves:
                np.testing.assert_array_equal(half[3], weight)
                np.testing.assert_array_equal(half[2], mask)
    assert whole[1][0][3].shape == (4,)


def test_a_batch_that_cannot_be_split_is_an_error(directory):
    with pytest.raises(DataError, match="4 can't be split into 3"):
        stream(directory, shard=(0, 3, 1))


def test_without_augmentation_images_are_only_resized(directory):
    (query, reference, _, _) = read(directory, epochs=1, settings=OFF)[0][1]  # pairs 7 6 5 4
    for row, pair in enumerate((7, 6, 5, 4)):
        image = resize(load(directory / f"drone{pair}.jpg"), SIZE)
        np.testing.assert_allclose(query[row], normalized(image), atol=1e-5)
        image = resize(load(directory / f"tile{pair % 4}.png"), SIZE)
        np.testing.assert_allclose(reference[row], normalized(image), atol=1e-5)


def test_padded_rows_without_augmentation_are_black(directory):
    query = read(directory, settings=OFF)[2][0][0]  # pairs 4 5 6 and padding
    np.testing.assert_allclose(query[3], normalized(np.zeros((*SIZE, 3))), atol=1e-5)


UNCHANGED = AugmentConfig(flip_p=0, jpeg_p=0, color_p=0, filter_p=0, dropout_p=0)
UPRIGHT = {side: replace(view, rotate=False) for side, view in VIEWS.items()}


@pytest.mark.parametrize("settings", [OFF, UNCHANGED])
def test_the_border_is_cut_before_any_other_step(directory, settings):
    views = {**UPRIGHT, "query": replace(UPRIGHT["query"], cut_border=0.25)}
    query = read(directory, epochs=1, views=views, settings=settings)[0][0][0]
    image = load(directory / "drone2.jpg")[10:30, 12:36]
    np.testing.assert_allclose(query[2], normalized(resize(image, SIZE)), atol=1e-5)


def test_views_may_have_different_rectangular_sizes(directory):
    views = {**VIEWS, "query": replace(DRONE, size_px=(16, 48))}
    query, reference, _, _ = read(directory, epochs=1, views=views)[0][0]
    assert query.shape == (4, 3, 16, 48) and reference.shape == (4, 3, 32, 32)


def test_model_train_receives_every_step_of_every_epoch(directory):
    """In MindSpore's own loop every step of every epoch arrives once, in order."""
    seen = []

    class Watch(ms.train.Callback):
        def on_train_step_end(self, run_context):
            params = run_context.original_args()
            seen.append((params.cur_epoch_num, params.train_dataset_element[3].asnumpy().copy()))

    class Step(nn.Cell):
        def construct(self, query, reference, mask, iou):
            return iou.sum()

    data = TrainData(stream(directory))
    ms.train.Model(Step()).train(4, data.dataset, callbacks=[Watch()], dataset_sink_mode=False)
    assert [epoch for epoch, _ in seen] == [1] * 3 + [2] + [3] * 5 + [4] * 2
    expected = [rows[3] for epoch in read(directory) for rows in epoch]
    np.testing.assert_array_equal([weight for _, weight in seen], expected)


def test_batches_share_a_few_arrays_of_memory(directory):
    source = stream(directory, plans=([[0, 1, 2, 3]] * 40,))
    for batch in TrainData(source).dataset.create_tuple_iterator(num_epochs=1):
        assert batch[0].shape == (4, 3, 32, 32)
    started = 2 + 4 * source.workers // 4  # steps in preparation; below 1 yielded, 1 queued, 1 here, 1 just left
    assert len(source._arrays["query"]) <= started + 4


def test_a_loop_can_be_left_early(directory):
    data = TrainData(stream(directory, plans=([[0, 1, 2, 3]] * 200,)))
    iterator = data.dataset.create_tuple_iterator(num_epochs=5)
    next(iterator)
    del iterator


# ---- bad images


def spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # the marks are complete, the pixels changed: only decoding finds it
        data = bytearray(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
        data[-20] ^= 1
        path.write_bytes(bytes(data))


@pytest.mark.parametrize("settings", [OFF, AugmentConfig()], ids=["still", "changed"])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "damaged"])
def test_a_bad_image_stops_the_training_and_is_named(directory, how, settings):
    spoil(directory / "drone5.jpg", how)
    data = TrainData(stream(directory, settings=settings, workers=2))
    with pytest.raises(ImageError, match=f"drone5.jpg is {how}") as caught, data.clear_errors():
        batches(data, 2)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("--set data.on_bad_image=skip")


@pytest.mark.parametrize("settings", [OFF, AugmentConfig()], ids=["still", "changed"])
@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "damaged"])
def test_a_bad_image_is_masked_and_counted_on_request(directory, how, settings, caplog):
    good = read(directory, settings=settings)
    spoil(directory / "drone5.jpg", how)
    data = TrainData(stream(directory, settings=settings, skip_bad=True))
    with caplog.at_level(logging.WARNING):
        found = batches(data, 4)
    assert len(data.bad_images) == 1
    problem = data.bad_images[str(directory / "drone5.jpg")]
    assert "download it again" in problem and "on_bad_image" not in problem  # this option is already set
    assert not caplog.text  # the trainer reports it, once
    for epoch, plan in enumerate(PLANS):
        for step, pairs in enumerate(plan):
            bad = np.array([pair == 5 for pair in pairs])
            for column in range(2):
                np.testing.assert_array_equal(found[epoch][step][column][~bad], good[epoch][step][column][~bad])
            np.testing.assert_array_equal(found[epoch][step][3], np.where(bad, 0, good[epoch][step][3]))
            expected = good[epoch][step][2] & ~bad[:, None] & ~bad[None, :]
            np.testing.assert_array_equal(found[epoch][step][2], expected)


def test_a_bad_tile_masks_every_pair_that_contains_it(directory):
    spoil(directory / "tile1.png", "truncated")
    data = TrainData(stream(directory, skip_bad=True))
    first, second, third = batches(data, 1)[0]
    assert [np.flatnonzero(batch[3] == 0).tolist() for batch in (first, second, third)] == [[1], [2], [1]]
    assert len(data.bad_images) == 1


def test_a_batch_of_only_bad_images_stops_in_any_case(directory):
    for index in range(4):
        spoil(directory / f"tile{index}.png", "empty")
    data = TrainData(stream(directory, skip_bad=True))
    with pytest.raises(ImageError, match="epoch 0, step 0: no pair") as caught, data.clear_errors():
        batches(data, 1)
    assert "on_bad_image" not in str(caught.value)


@pytest.mark.parametrize("settings", [OFF, AugmentConfig()], ids=["still", "changed"])
@pytest.mark.parametrize("skip_bad", [False, True])
def test_an_error_of_the_step_is_not_attributed_to_an_image(directory, settings, skip_bad):
    """Such an error is out of memory, while a skipped image, or one damaged after it was read, is in the batch."""
    if skip_bad:
        spoil(directory / "drone5.jpg", "empty")
    data = TrainData(stream(directory, settings=settings, skip_bad=skip_bad))
    batches(data, 1)
    spoil(directory / "drone2.jpg", "missing")
    with pytest.raises(RuntimeError, match="out of memory"), data.clear_errors():
        raise RuntimeError("out of memory")


# ---- evaluation


def test_images_are_in_order_and_the_last_batch_is_padded(directory):
    paths = [directory / f"drone{i}.jpg" for i in range(PAIRS)]
    images = image_batches(paths, 3, workers=2)
    found = list(images)
    assert len(images) == len(found) == 3
    assert [count for _, count in found] == [3, 3, 2]
    assert all(batch.shape == (3, 3, 32, 32) and batch.dtype == np.float32 for batch, _ in found)
    for index, path in enumerate(paths):
        expected = normalized(resize(load(path), SIZE))
        np.testing.assert_allclose(found[index // 3][0][index % 3], expected, atol=1e-5)
    np.testing.assert_allclose(found[2][0][2], normalized(np.zeros((*SIZE, 3))), atol=1e-5)


def test_images_can_be_read_twice(directory):
    images = image_batches([directory / "tile0.png", directory / "tile1.png"], 1)
    np.testing.assert_array_equal([b for b, _ in images], [b for b, _ in images])


def test_kept_images_are_not_overwritten(directory):
    paths = [directory / f"drone{index % PAIRS}.jpg" for index in range(24)]
    kept = [batch for batch, _ in image_batches(paths, 2, workers=2)]
    copies = [batch.copy() for batch, _ in image_batches(paths, 2, workers=2)]
    np.testing.assert_array_equal(kept, copies)


def test_training_and_evaluation_see_the_same_image(directory):
    """Same file, no augmentation: the three code paths agree byte for byte."""
    paths = [directory / f"drone{i}.jpg" for i in range(4)]
    ((batch, _),) = image_batches(paths, 4)
    for settings in (OFF, UNCHANGED):
        np.testing.assert_array_equal(read(directory, epochs=1, views=UPRIGHT, settings=settings)[0][0][0], batch)


def test_without_images_there_is_no_batch():
    assert list(image_batches([], 4)) == []


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "damaged"])
def test_a_bad_image_stops_an_evaluation_and_is_named(directory, how):
    spoil(directory / "drone6.jpg", how)
    paths = [directory / f"drone{i}.jpg" for i in range(PAIRS)]
    with pytest.raises(ImageError, match=f"drone6.jpg is {how}") as caught:
        list(image_batches(paths, 2, workers=2))
    assert "download it again" in str(caught.value) and "on_bad_image" not in str(caught.value)


# ---- real data


def adm_config(adm_root, **sections):
    tree = {
        "data": {"root": str(adm_root), "map_px": 4800, "m_per_px": 0.243, "query_size_px": [64, 64]},
        "train": {"batch_size": 8, "seed": 3},
        "sampling": {"mode": "exclusive_padded"},
    }
    tree["data"].update(reference_size_px=[64, 64], **sections)
    return config_from_dict(tree)


def test_a_real_flight_with_the_real_sampler(adm_root):
    config = adm_config(adm_root)
    split = read_split(config.data, "train")
    sampler = build_sampler(split, config.data.train_mode, config.sampling, 8, config.train.seed)
    targets, first_step = targets_of(config, split, ("iou",)), sampler.plan(1).steps - 3
    data = build_train_data(config, split, sampler, targets, progress=Progress(epoch=1, step_in_epoch=first_step))
    query, reference, mask, weight = (np.stack(column) for column in zip(*batches(data, 1)[0], strict=True))
    assert query.shape == reference.shape == (3, 8, 3, 64, 64)
    plan = sampler.plan(1).pair_SG[-3:]
    weights = split.edges("pos_semipos").columns["iou"]
    np.testing.assert_array_equal(weight, np.where(plan >= 0, weights[plan], 0))
    np.testing.assert_array_equal(mask, [sampler.mask(pairs) for pairs in plan])
