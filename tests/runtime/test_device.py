"""The device: it is chosen by what MindSpore reports; one-line errors; what a device supports."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import pytest

from mindloc.doctor.machine import absent, good
from mindloc.errors import DeviceError
from mindloc.runtime import device
from mindloc.runtime.device import has_bf16, has_fused_attention, require_precision, slow_convolutions
from mindloc.runtime.process import command_line

SOURCE = str(Path(device.__file__).parents[2])


RULE = "-" * 52
CUDA_ERROR = f"""
{RULE}
- Cuda error:
{RULE}
The cudaGetLastError[100], no CUDA-capable device is detected

{RULE}
- C++ Call Stack: (For framework developers)
{RULE}
mindspore/ccsrc/plugin/gpu/res_manager/symbol_interface/cuda_driver.cc:292 device_count
"""  # message of 2.8.0 with its plugin loaded and a driver without a card


def cards(count: int):
    """A target as MindSpore reports it. ``count`` None: its plugin is not loaded; -1: the driver fails to count."""

    def device_count() -> int:
        if count < 0:
            raise RuntimeError(CUDA_ERROR)
        return count

    return SimpleNamespace(is_available=lambda: count is not None, device_count=device_count)


def install_cards(
    monkeypatch, ascend: int | None = None, gpu: int | None = None, findings: tuple = (), capability=(8, 0)
) -> list:
    """Simulate MindSpore's cards and the doctor's findings; returns the list of cards that get chosen."""
    chosen = []
    monkeypatch.setattr(ms, "device_context", SimpleNamespace(ascend=cards(ascend), gpu=cards(gpu)))
    monkeypatch.setattr(ms.hal, "get_device_capability", lambda card, target: capability)
    monkeypatch.setattr(ms, "set_device", lambda *card: chosen.append(card))
    monkeypatch.setattr("mindloc.doctor.examination.diagnose", lambda machine, target, stated: findings)
    monkeypatch.setattr("mindloc.doctor.examination.look_at_driver", lambda machine: findings)
    return chosen


NO_CARD = absent("GPU", "card", "the driver is there, but no card", "unset CUDA_VISIBLE_DEVICES")
NO_CANN = absent("Ascend", "CANN", "not installed", "install it")
CARDS = (good("GPU", "driver", "575"), good("GPU", "card 0", "A, 24 GiB"), good("GPU", "card 1", "B, 24 GiB"))


@pytest.mark.parametrize("gpu", [None, 0, -1])  # no plugin; a plugin without a card
def test_an_unavailable_requested_target_is_an_error_with_reason_and_way_out(monkeypatch, gpu):
    install_cards(monkeypatch, gpu=gpu, findings=(NO_CARD,))
    with pytest.raises(DeviceError) as caught:
        device.use_device("GPU")
    assert str(caught.value) == (
        "device target GPU can't be used here: the driver is there, but no card; unset CUDA_VISIBLE_DEVICES "
        f"(details: {command_line('doctor', '--device_target', 'GPU')})"
    )
    install_cards(monkeypatch, findings=(NO_CANN,))
    with pytest.raises(DeviceError, match="device target Ascend can't be used here: not installed; install it"):
        device.use_device("Ascend")


def test_mindspore_s_message_is_the_reason_if_the_doctor_finds_no_problem(monkeypatch):
    install_cards(monkeypatch, gpu=-1, findings=CARDS)
    with pytest.raises(DeviceError) as caught:
        device.use_device("GPU")
    assert str(caught.value) == (
        "device target GPU can't be used here: no card (The cudaGetLastError[100], no CUDA-capable device is detected) "
        f"(details: {command_line('doctor', '--device_target', 'GPU')})"
    )


def test_auto_uses_what_works_and_states_why_not_a_better_target(monkeypatch):
    install_cards(monkeypatch, ascend=None, gpu=0)
    chosen = device.use_device()
    assert chosen.target == "CPU"
    assert chosen.description.endswith("; no Ascend: its plugin is not loaded, no GPU: no card")
    assert "no GPU" not in device.use_device("CPU").description  # requested, so nothing to explain


@pytest.mark.parametrize(("ascend", "best"), [(8, ("Ascend", 1)), (None, ("GPU", 1)), (0, ("GPU", 1))])
def test_the_best_target_is_chosen_with_its_card(monkeypatch, ascend, best):
    chosen_cards = install_cards(monkeypatch, ascend, gpu=2)
    chosen = device.use_device("auto", 1)
    assert (chosen.target, chosen.id) == best and chosen_cards == [best]


@pytest.mark.parametrize("device_id", [2, -1])
def test_a_card_that_does_not_exist_is_an_error_before_it_is_set(monkeypatch, device_id):
    chosen_cards = install_cards(monkeypatch, gpu=2, findings=CARDS)
    with pytest.raises(DeviceError) as caught:
        device.use_device("GPU", device_id)
    assert str(caught.value) == (
        f"device_id {device_id} is not among this machine's 2 GPUs (0: A, 24 GiB; 1: B, 24 GiB); use 0 to 1"
    )
    assert chosen_cards == []


@pytest.mark.parametrize(("capability", "target"), [((5, 2), "CPU"), ((6, 0), "GPU"), ((9, 0), "GPU")])
def test_cards_without_kernels_are_not_used(monkeypatch, capability, target):
    install_cards(monkeypatch, gpu=2, capability=capability)
    assert device.use_device().target == target


def test_a_simulated_ascend_has_no_card_to_count(monkeypatch):
    install_cards(monkeypatch, ascend=0)
    assert device.why_unusable("Ascend") == "no card"
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "0")
    assert device.why_unusable("Ascend") is None


def test_auto_uses_the_first_usable_target():
    works = [name for name in device.TARGETS if device.why_unusable(name) is None]
    assert device.use_device("auto").target == works[0]


def test_the_doctor_is_not_imported_without_a_problem():
    program = (
        "import sys\nfrom mindloc.runtime.device import use_device\nuse_device()\n"
        "print([name for name in sys.modules if name.startswith('mindloc.doctor')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert done.stdout == "[]\n", done.stderr


REFUSED_GRAPH = """
from mindloc.runtime.device import use_device
use_device("CPU")
import mindspore as ms
from mindspore import nn, ops
class Product(nn.Cell):
    def construct(self, x):
        return ops.matmul(x, x)
Product()(ms.ops.ones((2, 3)))
"""


@pytest.mark.slow
def test_a_graph_that_does_not_compile_leaves_nothing_in_the_working_directory(tmp_path):
    work, temporary = tmp_path / "work", tmp_path / "temporary"
    work.mkdir()
    temporary.mkdir()
    program = tmp_path / "program.py"  # MindSpore compiles only code that is in a file
    program.write_text(REFUSED_GRAPH, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "MS_OM_PATH"}
    environment |= {"TMPDIR": str(temporary), "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, str(program)], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "shape" in done.stderr
    assert list(work.iterdir()) == []
    assert list(temporary.glob("mindspore-*/rank_0/om/*"))  # the test does produce one, written here instead


def on(monkeypatch, target: str, chip: str):
    monkeypatch.setattr(ms, "get_context", {"device_target": target}.__getitem__)
    monkeypatch.setattr(ms.hal, "get_device_name", lambda device, target: chip)


@pytest.mark.parametrize("chip", ["Ascend910B1", "Ascend910B2C", "Ascend910_9392"])
def test_atlas_a2_and_a3_have_fused_attention_in_half_precision(monkeypatch, chip):
    on(monkeypatch, "Ascend", chip)
    assert has_fused_attention("fp16") and has_fused_attention("bf16") and has_bf16()
    assert not has_fused_attention("fp32")


@pytest.mark.parametrize("chip", ["Ascend910A", "Ascend910ProB", "Ascend910PremiumA", "Ascend910", "Ascend310P3"])
def test_the_first_910_and_the_inference_chips_lack_fused_attention(monkeypatch, chip):
    on(monkeypatch, "Ascend", chip)
    assert not has_fused_attention("fp16") and not has_bf16()


@pytest.mark.parametrize("target", ["CPU", "GPU"])
def test_the_chip_is_queried_on_ascend_only(monkeypatch, target):
    on(monkeypatch, target, "Ascend910B1")
    assert not has_fused_attention("fp16")


def test_a_simulated_ascend_is_the_chip_that_the_environment_names(monkeypatch):
    on(monkeypatch, "Ascend", "no card to query")
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "1")
    assert has_fused_attention("fp16")
    monkeypatch.setenv("SIMULATED_CHIP", "Ascend910A")
    assert not has_fused_attention("fp16")


@pytest.mark.parametrize(
    ("precision", "target", "training", "way_out"),
    [
        ("bf16", "CPU", True, "use train.precision=fp32"),
        ("fp16", "CPU", True, "use train.precision=fp32"),
        ("bf16", "CPU", False, "use --precision fp32"),
        ("bf16", "Ascend", True, "bf16, which the chip Ascend910A does not support: use train.precision=fp16"),
        ("bf16", "Ascend", False, "use --precision fp16"),
    ],
)
def test_an_unsupported_precision_is_an_error(monkeypatch, precision, target, training, way_out):
    on(monkeypatch, target, "Ascend910A")
    with pytest.raises(DeviceError, match=way_out):
        require_precision(precision, target, training)


def test_other_precisions_are_accepted(monkeypatch):
    on(monkeypatch, "Ascend", "Ascend910B1")
    for target in ("CPU", "GPU", "Ascend"):
        require_precision("fp32", target, training=True)
        require_precision("fp16", target)
    for target in ("GPU", "Ascend"):
        require_precision("bf16", target, training=True)


def test_slow_convolutions_are_reported_on_a_cpu_with_a_newer_mindspore_only(monkeypatch):
    monkeypatch.setattr(ms, "__version__", "2.10.0")
    sentence = slow_convolutions("CPU")
    assert "MindSpore 2.10.0" in sentence and "constraints-cpu.txt" in sentence and "\n" not in sentence
    assert slow_convolutions("GPU") is None and slow_convolutions("Ascend") is None
    monkeypatch.setattr(ms, "__version__", "2.8.0")
    assert slow_convolutions("CPU") is None
