"""Each augmentation equals its definition, and its parameters are a function of (seed, epoch, pair)."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindloc.config.sections import AugmentConfig
from mindloc.data.augment import (
    Augmentation,
    Blur,
    CoarseDropout,
    ColorJitter,
    GridDropout,
    Sharpen,
    advanced_blur,
    augment,
    blur_kernel,
    coarse_dropout,
    color_jitter,
    color_matrix,
    draw_augmentation,
    flip_left_right,
    grid_dropout,
    jpeg,
    rotate,
    sharpen,
)
from mindloc.vocabulary import SIDES, ViewSpec

PARTS = ("brightness", "contrast", "saturation", "hue")
ALWAYS = AugmentConfig(flip_p=1, jpeg_p=1, color_p=1, filter_p=1, dropout_p=1)
TURNED = {side: ViewSpec("drone", (32, 32), rotate=True) for side in SIDES}
UPRIGHT = {side: ViewSpec("drone", (32, 32)) for side in SIDES}


def noise_over_a_ramp():
    """An image in which all rows, columns and colors differ and no value is clipped."""
    ramp = np.linspace(60, 160, 48 * 48 * 3).reshape(48, 48, 3)
    return (ramp + np.random.default_rng(0).uniform(-20, 20, ramp.shape)).astype(np.uint8)


@pytest.fixture
def noise():
    return noise_over_a_ramp()


def constant(level=(90, 120, 60), height=40, width=40):
    return np.full((height, width, 3), level, np.uint8)


# ---- drawing


def test_the_same_arguments_draw_the_same_parameters():
    assert draw_augmentation(3, 2, 17, ALWAYS, TURNED) == draw_augmentation(3, 2, 17, ALWAYS, TURNED)


@pytest.mark.parametrize("other", [(4, 2, 17), (3, 1, 17), (3, 2, 18)])
def test_seed_epoch_and_pair_each_change_the_draw(other):
    assert draw_augmentation(3, 2, 17, ALWAYS, TURNED) != draw_augmentation(*other, ALWAYS, TURNED)


def test_the_images_of_a_pair_share_only_their_flip():
    drawn = [draw_augmentation(0, 0, pair, ALWAYS.model_copy(update={"flip_p": 0.5}), TURNED) for pair in range(200)]
    assert all(pair["query"].flip == pair["reference"].flip for pair in drawn)
    assert all(pair["query"].color != pair["reference"].color for pair in drawn)
    assert {pair["query"].quarter_turns == pair["reference"].quarter_turns for pair in drawn} == {True, False}


def test_the_shared_flip_does_not_depend_on_the_other_settings():
    flips = [draw_augmentation(0, 0, pair, AugmentConfig(), TURNED)["query"].flip for pair in range(50)]
    bare = AugmentConfig(jpeg_p=0, color_p=0, filter_p=0, dropout_p=0)
    assert flips == [draw_augmentation(0, 0, pair, bare, UPRIGHT)["query"].flip for pair in range(50)]


def test_nothing_is_drawn_if_every_probability_is_zero():
    none = AugmentConfig(flip_p=0, jpeg_p=0, color_p=0, filter_p=0, dropout_p=0)
    assert draw_augmentation(1, 2, 3, none, UPRIGHT) == {"query": Augmentation(), "reference": Augmentation()}


def test_frequencies_match_the_probabilities():
    drawn = [draw_augmentation(5, 0, pair, AugmentConfig(), TURNED)["query"] for pair in range(4000)]
    # standard error of a frequency of 0.5 over 4000: 0.008
    assert np.mean([d.flip for d in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([d.jpeg_quality is not None for d in drawn]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([d.color is not None for d in drawn]) == pytest.approx(0.5, abs=0.04)
    for kind in (Blur, Sharpen):
        assert np.mean([isinstance(d.filter, kind) for d in drawn]) == pytest.approx(0.15, abs=0.03)
    for kind in (GridDropout, CoarseDropout):
        assert np.mean([isinstance(d.dropout, kind) for d in drawn]) == pytest.approx(0.15, abs=0.03)
    assert np.bincount([d.quarter_turns for d in drawn]) / 4000 == pytest.approx(np.full(4, 0.25), abs=0.03)


def test_parameters_are_in_the_ranges_of_the_settings():
    drawn = [draw_augmentation(6, 0, pair, ALWAYS, TURNED)["reference"] for pair in range(1000)]
    assert {d.jpeg_quality for d in drawn} == set(range(90, 101))
    for part in ("brightness", "contrast", "saturation"):
        values = [getattr(d.color, part) for d in drawn]
        assert 0.85 <= min(values) < 0.87 and 1.13 < max(values) <= 1.15
    hues = [d.color.hue for d in drawn]
    assert -0.15 <= min(hues) < -0.13 and 0.13 < max(hues) <= 0.15
    assert len({d.color.order for d in drawn}) == 24
    holes = [d.dropout.holes for d in drawn if isinstance(d.dropout, CoarseDropout)]
    assert {len(h) for h in holes} == set(range(10, 26))
    for top, left, height, width in np.concatenate(holes):
        assert 0.1 <= height <= 0.2 and 0.1 <= width <= 0.2
        assert 0 <= top <= 1 - height and 0 <= left <= 1 - width


def test_rotation_can_be_switched_off_for_one_side():
    views = {"query": TURNED["query"], "reference": UPRIGHT["reference"]}
    drawn = [draw_augmentation(0, 0, pair, AugmentConfig(), views) for pair in range(40)]
    assert {pair["reference"].quarter_turns for pair in drawn} == {0}
    assert {pair["query"].quarter_turns for pair in drawn} == {0, 1, 2, 3}


# ---- applying


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(0, 99), st.integers(0, 10**7), st.tuples(*[st.integers(8, 64)] * 2))
def test_an_image_of_any_size_is_a_function_of_seed_epoch_and_pair(seed, epoch, pair, size_px):
    image = noise_over_a_ramp()
    first, again = (
        augment(image, draw_augmentation(seed, epoch, pair, ALWAYS, TURNED)["query"], size_px) for _ in range(2)
    )
    assert first.shape == (*size_px, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, noise_over_a_ramp())  # the argument is not changed


def test_without_changes_only_the_size_changes(noise):
    np.testing.assert_array_equal(augment(noise, Augmentation(), (48, 48)), noise)
    quarter = noise.reshape(24, 2, 24, 2, 3).mean(axis=(1, 3))  # the mean over the area of each new pixel
    np.testing.assert_allclose(augment(noise, Augmentation(), (24, 24)), quarter, atol=0.51)


def test_steps_are_applied_in_the_order_of_the_recipe(noise):
    color = ColorJitter(1.1, 0.9, 1.05, 0.02, PARTS)
    change = Augmentation(True, 92, color, Sharpen(0.3), GridDropout(0.4, (0.2, 0.7)), 3)
    small = cv2.resize(jpeg(flip_left_right(noise), 92), (32, 32), interpolation=cv2.INTER_AREA)
    jittered = color_jitter(small, 1.1, 0.9, 1.05, 0.02, PARTS)
    by_hand = rotate(grid_dropout(sharpen(jittered, 0.3), 0.4, (0.2, 0.7)), 3)
    np.testing.assert_array_equal(augment(noise, change, (32, 32)), by_hand)


def test_flip_is_left_right(noise):
    np.testing.assert_array_equal(augment(noise, Augmentation(flip=True), (48, 48)), noise[:, ::-1])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact(noise, turns):
    turned = augment(noise, Augmentation(quarter_turns=turns), (48, 48))
    np.testing.assert_array_equal(turned, np.rot90(noise, turns))


@pytest.mark.parametrize(("turns", "half"), [(0, False), (1, True), (2, True), (3, False)])
def test_a_rectangular_image_rotates_by_half_turns(noise, turns, half):
    wide = noise[:24]
    turned = augment(wide, Augmentation(quarter_turns=turns), (24, 48))
    np.testing.assert_array_equal(turned, np.rot90(wide, 2) if half else wide)


def test_jpeg_changes_little_and_less_at_higher_quality(noise):
    smooth = cv2.GaussianBlur(noise, (9, 9), 0)
    error = {q: np.abs(jpeg(smooth, q).astype(int) - smooth).mean() for q in (90, 100)}
    assert error[100] < error[90] < 4


# ---- color


@pytest.mark.parametrize("order", [PARTS, PARTS[::-1]])
def test_neutral_factors_change_nothing(noise, order):
    np.testing.assert_array_equal(color_jitter(noise, 1, 1, 1, 0, order), noise)


def test_brightness_multiplies():
    # 90, 120, 60 times 1.1
    np.testing.assert_array_equal(color_jitter(constant(), 1.1, 1, 1, 0, PARTS), constant((99, 132, 66)))


def test_values_beyond_white_are_clipped():
    np.testing.assert_array_equal(color_jitter(constant((250, 200, 10)), 1.15, 1, 1, 0, PARTS)[0, 0], [255, 230, 12])


def test_saturation_blends_with_luma():
    # luma of (90, 120, 60): 0.299 * 90 + 0.587 * 120 + 0.114 * 60 = 104.19; half way: 97.095, 112.095, 82.095
    np.testing.assert_array_equal(color_jitter(constant(), 1, 1, 0.5, 0, PARTS), constant((97, 112, 82)))


def test_contrast_blends_with_the_mean_luma(noise):
    luma = noise @ np.array([0.299, 0.587, 0.114])
    expected = 0.9 * noise + 0.1 * luma.mean()
    np.testing.assert_allclose(color_jitter(noise, 1, 0.9, 1, 0, PARTS), expected, atol=0.51)


@pytest.mark.parametrize("order", [PARTS, PARTS[::-1], ("contrast", "hue", "brightness", "saturation")])
def test_one_matrix_equals_the_successive_parts(noise, order):
    """The definition in floats on the whole image. OpenCV applies the matrix to uint8 with coefficients in steps of
    2^-10, so its pixels may be off by the rounding, 0.5, and by three coefficients' half steps times 255, 0.37."""
    luma_of = np.array([0.299, 0.587, 0.114])
    image = noise.astype(float)
    for part in order:
        if part == "brightness":
            image = 1.1 * image
        elif part == "contrast":
            image = 0.8 * image + 0.2 * (image @ luma_of).mean()
        elif part == "saturation":
            image = 0.6 * image + 0.4 * (image @ luma_of)[..., None]
        else:
            image = image @ color_matrix(np.zeros(3), 1, 1, 1, 0.1, ("hue",))[:, :3].T
    matrix = color_matrix(noise.mean(axis=(0, 1)), 1.1, 0.8, 0.6, 0.1, order)
    np.testing.assert_allclose(noise @ matrix[:, :3].T + matrix[:, 3], image, atol=1e-9)
    np.testing.assert_allclose(color_jitter(noise, 1.1, 0.8, 0.6, 0.1, order), image, atol=0.88)


def test_hue_at_a_third_of_the_circle_exchanges_the_channels():
    np.testing.assert_array_equal(color_jitter(constant(), 1, 1, 1, 1 / 3, PARTS), constant((60, 90, 120)))


def test_hue_does_not_change_gray():
    gray = constant((77, 77, 77))
    np.testing.assert_array_equal(color_jitter(gray, 1, 1, 1, 0.13, PARTS), gray)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-0.15, 0.15))
def test_hue_is_near_its_definition_in_hsv(hue, value, shift):
    """Rotation around gray differs from HSV's hexagon; the tolerance is that difference at saturation 0.2."""
    matrix = color_matrix(np.zeros(3), 1, 1, 1, shift, ("hue",))
    turned = matrix[:, :3] @ colorsys.hsv_to_rgb(hue, 0.2, value)
    np.testing.assert_allclose(turned, colorsys.hsv_to_rgb((hue + shift) % 1, 0.2, value), atol=16 / 255)


def test_an_unknown_color_part_is_named():
    with pytest.raises(ValueError, match="'gamma'"):
        color_matrix(np.zeros(3), 1, 1, 1, 0, ("gamma",))


# ---- filters


def test_filters_do_not_change_a_constant_image():
    random = np.random.default_rng(2)
    for size in (3, 5, 7):
        noise = random.uniform(0.9, 1.1, size * size)
        blurred = advanced_blur(constant(), size, (0.9, 0.3), 40, 2.0, noise)
        np.testing.assert_array_equal(blurred, constant())
    np.testing.assert_array_equal(sharpen(constant(), 0.4), constant())


def test_blur_kernel_is_gaussian_at_beta_one():
    naive = np.array([[np.exp(-(x * x + y * y) / (2 * 0.8**2)) for x in range(-2, 3)] for y in range(-2, 3)])
    kernel = blur_kernel(5, (0.8, 0.8), 33, 1.0, np.ones(25))
    np.testing.assert_allclose(kernel, naive / naive.sum(), atol=1e-12)


def test_blur_kernel_rotates_with_its_angle():
    flat = blur_kernel(7, (1.0, 0.3), 0, 1.0, np.ones(49))
    assert flat[3].sum() > flat[:, 3].sum()  # wide along the rows
    np.testing.assert_allclose(blur_kernel(7, (1.0, 0.3), 90, 1.0, np.ones(49)), flat.T, atol=1e-12)


def test_blur_lowers_and_sharpen_raises_the_roughness(noise):
    def roughness(image):
        return np.abs(np.diff(image.astype(int), axis=1)).mean()

    blurred = advanced_blur(noise, 5, (0.9, 0.9), 0, 1.0, np.ones(25))
    assert roughness(blurred) < roughness(noise) < roughness(sharpen(noise, 0.3))


def test_sharpen_by_hand():
    # one pixel of 100 in a field of 90, alpha 0.2: kernel center 0.8 + 9 * 0.2 = 2.6, others -0.2
    image = constant((90, 90, 90))
    image[20, 20] = 100
    out = sharpen(image, 0.2)
    assert out[20, 20, 0] == 116  # 2.6 * 100 - 8 * 0.2 * 90
    assert out[20, 21, 0] == 88  # 90 - 0.2 * 10


# ---- dropout


def test_grid_dropout_covers_the_square_of_its_ratio():
    white = constant((255, 255, 255), 400, 400)
    for phase in ((0, 0), (0.3, 0.8)):
        gone = grid_dropout(white, 0.4, phase)[..., 0] == 0
        assert gone.mean() == 0.16  # 40 px cells, 16 px holes, whole cells only


def test_grid_dropout_against_its_definition(noise):
    out = grid_dropout(noise, 0.5, (0.25, 0.75))
    for row in range(48):
        for column in range(48):  # 48 // 10 = 4 px cells, 2 px holes, moved by 1 and 3
            hole = (row + 1) % 4 < 2 and (column + 3) % 4 < 2
            np.testing.assert_array_equal(out[row, column], 0 if hole else noise[row, column])


def test_coarse_dropout_fills_the_given_rectangles(noise):
    out = coarse_dropout(noise, [(0.0, 0.5, 0.25, 0.125)])  # rows 0..11, columns 24..29
    expected = noise.copy()
    expected[0:12, 24:30] = 0
    np.testing.assert_array_equal(out, expected)


def test_coarse_dropout_covers_a_fraction_in_its_range():
    """Between one hole of 0.1 x 0.1 (all holes coincide) and 25 of 0.2 x 0.2 (no overlaps)."""
    white = constant((255, 255, 255), 200, 200)
    shares = []
    for pair in range(100):
        change = draw_augmentation(0, 0, pair, ALWAYS, TURNED)["query"].dropout
        if isinstance(change, CoarseDropout):
            shares.append((coarse_dropout(white, change.holes)[..., 0] == 0).mean())
    assert min(shares) >= 0.01 and max(shares) <= 1.0
    # 17.5 holes of 0.15 x 0.15 on average, independent and mostly inside: 1 - (1 - 0.0225)^17.5 = 0.33
    assert np.mean(shares) == pytest.approx(0.33, abs=0.06)
