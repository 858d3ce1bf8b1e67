"""The forms of a layer compute the same: values and gradients, with operators fused and not."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, ops

from mindloc.models.attention import attention_core
from mindloc.models.layers import LayerNorm
from mindloc.models.vit_plain import PlainVit, PlainVitSize
from mindloc.models.vit_rope import RopeVit, VitSize

PROGRAM = Path(__file__).with_name("fused_gradients.py")
SHAPE_BHND = (2, 3, 17, 8)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


def attended(form: str, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The results of attention, and the gradients of their sum weighted by the last array."""
    core, weight = attention_core(form, heads=3), Tensor(arrays[3])

    def total(query, key, value):
        mixed = core(query, key, value)
        return ops.sum(mixed * weight), mixed

    gradients, mixed = ops.grad(total, (0, 1, 2), has_aux=True)(*(Tensor(a) for a in arrays[:3]))
    return [mixed[0].asnumpy(), *(g.asnumpy() for g in gradients)]


@pytest.mark.parametrize("scale", [1.0, 30.0])  # at 30 the softmax is almost one-hot
def test_attention_by_products_is_attention(scale):
    arrays = [normal(*SHAPE_BHND, seed=i) for i in range(4)]
    arrays[0] = scale * arrays[0]
    for got, expected in zip(attended("products", arrays), attended("plain", arrays), strict=True):
        assert relative(got, expected) < 1e-5


def test_attention_by_products_by_its_definition():
    query, key, value, weight = (normal(*SHAPE_BHND, seed=i).astype(np.float64) for i in range(4))
    power = np.exp(np.einsum("bhnd,bhmd->bhnm", query, key))
    weights = power / power.sum(-1, keepdims=True)
    by_weights = np.einsum("bhnd,bhmd->bhnm", weight, value)
    by_score = weights * (by_weights - (weights * by_weights).sum(-1, keepdims=True))
    expected = [weights @ value, by_score @ key, by_score.swapaxes(2, 3) @ query, weights.swapaxes(2, 3) @ weight]
    got = attended("products", [normal(*SHAPE_BHND, seed=i) for i in range(4)])
    for one, other in zip(got, expected, strict=True):
        assert relative(one, other) < 2e-6


@pytest.mark.parametrize("offset", [0.0, 100.0])  # a mean far above the deviation
def test_norm_by_products_by_its_definition(offset):
    x_MI, weight_MI, eps = normal(40, 24) + np.float32(offset), normal(40, 24, seed=1), 1e-6
    scale, bias = 1 + 0.1 * normal(24, seed=2), normal(24, seed=3)
    layer = LayerNorm(24, form="products")
    layer.weight.set_data(Tensor(scale))
    layer.bias.set_data(Tensor(bias))
    weight = Tensor(weight_MI)

    def total(x):
        return ops.sum(layer(x) * weight)

    _, (dx, (dscale, dbias)) = ops.value_and_grad(total, 0, layer.trainable_params())(Tensor(x_MI))

    wide = x_MI.astype(np.float64)
    deviation = np.sqrt(wide.var(1, keepdims=True) + eps)
    unit = (wide - wide.mean(1, keepdims=True)) / deviation
    by_unit = weight_MI * scale
    along = (by_unit * unit).mean(1, keepdims=True)
    assert relative(layer(Tensor(x_MI)).asnumpy(), unit * scale + bias) < 1e-5
    assert relative(dx.asnumpy(), (by_unit - by_unit.mean(1, keepdims=True) - unit * along) / deviation) < 1e-5
    assert relative(dscale.asnumpy(), (weight_MI * unit).sum(0)) < 1e-5
    assert relative(dbias.asnumpy(), weight_MI.sum(0)) < 1e-6


def gradients_and_rows(vit, images, weight) -> list[np.ndarray]:
    """The gradients of the weighted sum of the rows by every parameter, then the rows."""

    def total(x):
        rows = vit(x)
        return ops.sum(rows * weight), rows

    (_, rows), gradients = ops.value_and_grad(total, None, vit.trainable_params(), has_aux=True)(images)
    return [array.asnumpy() for array in (*gradients, rows)]


@pytest.mark.parametrize("backbone", ["rope", "plain"])
def test_whole_backbones_agree_in_both_forms(backbone):
    images, weight = Tensor(normal(2, 3, 64, 64)), Tensor(normal(2, 48, seed=1))
    outcomes = []
    for form in ("plain", "products"):
        if backbone == "rope":
            vit = RopeVit(VitSize(48, 2, 3, reference_grid=4), form=form)
        else:
            vit = PlainVit(PlainVitSize(48, 2, 3, 16, 4), form=form)
        for i, parameter in enumerate(vit.get_parameters()):
            parameter.set_data(Tensor(0.3 * normal(*parameter.shape, seed=i) + ("norm" in parameter.name)))
        outcomes.append(gradients_and_rows(vit, images, weight))
    for got, expected in zip(*outcomes[::-1], strict=True):
        assert relative(got, expected) < 1e-5


@pytest.mark.slow
def test_fused_operators_change_nothing_but_the_last_bits(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("MS_COMPILER_CACHE_PATH", None)
    for fusion in ("never", "always"):
        command = [sys.executable, str(PROGRAM), fusion, str(tmp_path / f"{fusion}.npz")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert "AKG" not in done.stdout
    with np.load(tmp_path / "never.npz") as plain, np.load(tmp_path / "always.npz") as fused:
        assert len(plain.files) > 20
        differences = [relative(fused[name], plain[name]) for name in plain.files]
    assert max(differences) < 1e-5
    assert any((tmp_path / "cache").rglob("*.so"))  # loops were compiled and cached in this directory
    assert not list(tmp_path.glob("akg*"))
