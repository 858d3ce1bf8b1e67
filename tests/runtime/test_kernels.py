"""Who has the fused kernel, a precision, fast convolutions: told from target, precision, chip and version alone."""

import mindspore as ms
import pytest

from mindloc.errors import DeviceError
from mindloc.runtime.device import has_bf16, has_fused_attention, require_precision, slow_convolutions


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


@pytest.mark.parametrize(
    ("precision", "target", "training", "way_out"),
    [
        ("bf16", "CPU", True, "take train.precision=fp32"),
        ("fp16", "CPU", True, "take train.precision=fp32"),
        ("bf16", "CPU", False, "take --precision fp32"),
        ("bf16", "Ascend", True, "bf16 and the chip is Ascend910A, which has none: take train.precision=fp16"),
        ("bf16", "Ascend", False, "take --precision fp16"),
    ],
)
def test_a_precision_that_the_device_lacks_is_refused(monkeypatch, precision, target, training, way_out):
    on(monkeypatch, target, "Ascend910A")
    with pytest.raises(DeviceError, match=way_out):
        require_precision(precision, target, training)


def test_any_other_precision_is_taken(monkeypatch):
    on(monkeypatch, "Ascend", "Ascend910B1")
    for target in ("CPU", "GPU", "Ascend"):
        require_precision("fp32", target, training=True)
        require_precision("fp16", target)
    for target in ("GPU", "Ascend"):
        require_precision("bf16", target, training=True)


def test_only_a_cpu_with_a_newer_mindspore_is_told_of_its_slow_convolutions(monkeypatch):
    monkeypatch.setattr(ms, "__version__", "2.10.0")
    sentence = slow_convolutions("CPU")
    assert "MindSpore 2.10.0" in sentence and "constraints-cpu.txt" in sentence and "\n" not in sentence
    assert slow_convolutions("GPU") is None and slow_convolutions("Ascend") is None
    monkeypatch.setattr(ms, "__version__", "2.8.0")
    assert slow_convolutions("CPU") is None
