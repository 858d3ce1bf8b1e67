"""Who gets the fused attention kernel: told from target, precision and chip alone."""

import mindspore as ms
import pytest

from mindloc.runtime.kernels import has_bf16, has_fused_attention


def on(monkeypatch, target: str, chip: str):
    monkeypatch.setattr(ms, "get_context", {"device_target": target}.__getitem__)
    monkeypatch.setattr(ms.hal, "get_device_name", lambda device, target: chip)


@pytest.mark.parametrize("chip", ["Ascend910B1", "Ascend910B2C", "Ascend910_9392"])
def test_atlas_a2_and_a3_have_it_in_half_precision(monkeypatch, chip):
    on(monkeypatch, "Ascend", chip)
    assert has_fused_attention("fp16") and has_fused_attention("bf16") and has_bf16()
    assert not has_fused_attention("fp32")


@pytest.mark.parametrize("chip", ["Ascend910A", "Ascend910ProB", "Ascend910PremiumA", "Ascend910", "Ascend310P3"])
def test_the_first_910_and_the_inference_chips_do_not(monkeypatch, chip):
    on(monkeypatch, "Ascend", chip)
    assert not has_fused_attention("fp16") and not has_bf16()


@pytest.mark.parametrize("target", ["CPU", "GPU"])
def test_no_other_target_is_asked_for_its_chip(monkeypatch, target):
    on(monkeypatch, target, "Ascend910B1")
    assert not has_fused_attention("fp16")


def test_a_simulated_ascend_is_the_chip_that_the_environment_names(monkeypatch):
    on(monkeypatch, "Ascend", "no card can be asked")
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "1")
    assert has_fused_attention("fp16")
    monkeypatch.setenv("SIMULATED_CHIP", "Ascend910A")
    assert not has_fused_attention("fp16")
