"""Attention equals its definition, both from three operators and by a call of the fused kernel."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindloc.models.vit_rope import RopeAttention, quarter_turn, rope_tables

WIDTH, HEADS, HEAD_DIM, IMAGES, GRID = 32, 2, 16, 3, (2, 3)
TOKENS = 1 + 2 * 3  # odd: no form may require a round number


@pytest.fixture
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


def filled(fused: bool) -> RopeAttention:
    attention, random = RopeAttention(WIDTH, HEADS, fused), np.random.RandomState(0)
    for parameter in attention.get_parameters():
        parameter.set_data(Tensor(0.3 * random.standard_normal(parameter.shape).astype(np.float32)))
    return attention


def rows_and_tables() -> list[np.ndarray]:
    x_MC = np.random.RandomState(1).standard_normal((IMAGES * TOKENS, WIDTH)).astype(np.float32)
    return [x_MC, *rope_tables(GRID, HEAD_DIM, reference_grid=2, registers=1)]


def softmax(score):
    power = np.exp(score - score.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def naive_attention(weights, x_MC, cos_ND, sin_ND):
    """Attention by its definition, for every image and head separately, in float64."""
    rows = []
    for x_NC in np.asarray(x_MC, np.float64).reshape(IMAGES, TOKENS, WIDTH):
        query, key, value = np.split(x_NC @ weights["qkv.weight"].T, 3, axis=1)
        query, value = query + weights["q_bias"], value + weights["v_bias"]
        heads = []
        for head in range(HEADS):
            own = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            q, k = (side[:, own] * cos_ND + side[:, own] @ quarter_turn(HEAD_DIM) * sin_ND for side in (query, key))
            heads.append(softmax(q @ k.T / np.sqrt(HEAD_DIM)) @ value[:, own])
        rows.append(np.concatenate(heads, axis=1) @ weights["proj.weight"].T + weights["proj.bias"])
    return np.concatenate(rows)


def documented_kernel(
    query, key, value, head_num, attn_mask=None, keep_prob=1.0, scalar_value=1.0, input_layout="BSH", sparse_mode=0
):
    """dropout(softmax(mask(scale * (query key^T)))) value, as the page of ops.flash_attention_score defines it."""
    assert attn_mask is None and keep_prob == 1.0 and sparse_mode == 0  # then it neither masks nor drops
    q, k, v = (side.asnumpy().astype(np.float64) for side in (query, key, value))
    if input_layout == "BSH":
        q, k, v = (side.reshape(*side.shape[:2], head_num, -1).transpose(0, 2, 1, 3) for side in (q, k, v))
    mixed = softmax(scalar_value * q @ k.transpose(0, 1, 3, 2)) @ v
    assert q.shape[1] == head_num
    if input_layout == "BSH":
        mixed = mixed.transpose(0, 2, 1, 3).reshape(query.shape)
    return Tensor(mixed.astype(np.float32))


@pytest.mark.parametrize("fused", [False, True])
def test_attention_follows_its_definition(fused, pynative, monkeypatch):
    monkeypatch.setattr(ops, "flash_attention_score", documented_kernel)  # the kernel itself runs only on an Ascend
    attention, inputs = filled(fused), rows_and_tables()
    weights = {parameter.name: parameter.asnumpy().astype(np.float64) for parameter in attention.get_parameters()}
    mixed_MC = attention(*map(Tensor, inputs)).asnumpy()
    np.testing.assert_allclose(mixed_MC, naive_attention(weights, *inputs), rtol=0, atol=2e-5)


def test_both_forms_have_the_same_parameters():
    names = [[parameter.name for parameter in filled(fused).get_parameters()] for fused in (False, True)]
    assert names[0] == names[1]
