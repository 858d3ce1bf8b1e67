"""What light, air and a camera do to a picture: cast, contrast, haze, blur, vignette, noise."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Look:
    """One flight's light and camera; every frame strays from it a little.

    Args:
        gain_3: factor of blue, green, red.
        gamma: exponent on brightness 0..1; below 1 is brighter.
        saturation: 0 is gray, 1 as painted.
        contrast: around the middle.
        haze: share of a pale veil.
        blur_px: Gaussian deviation.
        sharpen: strength of the camera's own sharpening.
        noise: deviation in gray levels.
        vignette: loss of light in the corners.
    """

    gain_3: tuple[float, float, float]
    gamma: float
    saturation: float
    contrast: float
    haze: float
    blur_px: float
    sharpen: float
    noise: float
    vignette: float


def draw_look(rng: np.random.Generator) -> Look:
    """Light and camera of one flight."""
    warmth, tint = rng.normal(0, 0.07), rng.normal(0, 0.03)
    brightness = rng.uniform(0.92, 1.22)
    return Look(
        gain_3=(brightness * (1 - warmth), brightness * (1 + tint), brightness * (1 + warmth)),
        gamma=rng.uniform(0.8, 1.12),
        saturation=rng.uniform(0.75, 1.25),
        contrast=rng.uniform(0.85, 1.15),
        haze=rng.uniform(0, 0.15),
        blur_px=rng.uniform(0.3, 0.9),
        sharpen=rng.uniform(0, 0.5),
        noise=rng.uniform(1.0, 4.0),
        vignette=rng.uniform(0, 0.22),
    )


def satellite_look(rng: np.random.Generator) -> Look:
    """The satellite's: cool, contrasty, a little hazy, the same for the whole map."""
    return Look(
        (1.1, 1.04, 1.03),
        rng.uniform(0.9, 1.0),
        rng.uniform(0.62, 0.78),
        rng.uniform(0.98, 1.08),
        0.05,
        0.0,
        0.3,
        0.0,
        0.0,
    )


def apply_look(picture, look: Look, rng: np.random.Generator, stray: float = 1.0) -> np.ndarray:
    """The picture as taken, uint8 BGR.

    Args:
        picture: uint8 BGR.
        stray: how much this frame may differ from its flight's look; 0 not at all.
    """
    brightness = 1 + stray * np.clip(rng.normal(0, 0.06), -0.15, 0.15)
    gain = np.float32(look.gain_3) * np.float32(brightness * (1 + stray * rng.normal(0, 0.012, 3)))
    table = np.linspace(0, 1, 256, dtype=np.float32)[:, None] * gain
    table = np.clip(table, 0, None) ** np.float32(look.gamma)
    table = (table - 0.45) * np.float32(look.contrast) + 0.45
    haze = look.haze * (1 + 0.3 * stray * rng.uniform(-1, 1))
    table = table * (1 - haze) + haze * np.float32([0.86, 0.83, 0.80])
    lut = np.clip(table * 255, 0, 255).astype(np.uint8).reshape(256, 1, 3)
    picture = cv2.LUT(picture, lut)
    picture = picture.astype(np.float32)
    gray = picture @ np.float32([0.114, 0.587, 0.299])
    picture = gray[..., None] + np.float32(look.saturation) * (picture - gray[..., None])
    if look.blur_px > 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), look.blur_px)
    if look.sharpen > 0:
        picture += np.float32(look.sharpen) * (picture - cv2.GaussianBlur(picture, (0, 0), 1.2))
    if look.vignette > 0:
        picture *= _vignette(picture.shape[:2], look.vignette)[..., None]
    if look.noise > 0:
        picture += np.float32(look.noise) * rng.standard_normal(picture.shape, np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _vignette(shape, strength: float) -> np.ndarray:
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    return 1 - np.float32(strength) * (x**2 + y**2) / 2
