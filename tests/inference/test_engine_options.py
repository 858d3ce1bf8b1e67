"""The options of the device reach ``use_device``."""

import pytest

from mindloc.config import load_config
from mindloc.errors import DeviceError
from mindloc.inference import build
from mindloc.inference.build import EngineRequest, Source, start_engine
from mindloc.vocabulary import SIDES


@pytest.mark.parametrize("fusion", ["auto", "always", "never"])
@pytest.mark.parametrize("target", ["auto", "CPU", "GPU", "Ascend"])
def test_an_engine_is_started_on_the_device_of_the_config(monkeypatch, fusion, target):
    requests = []

    def use_device(*arguments):
        requests.append(arguments)
        raise DeviceError("far enough")

    monkeypatch.setattr(build, "use_device", use_device)
    words = [f"run.operator_fusion={fusion}", f"run.device_target={target}", "run.device_ids=[3]"]
    with pytest.raises(DeviceError, match="far enough"):
        start_engine(EngineRequest(), Source(load_config(), SIDES, None, {}), load_config(None, words))
    assert requests == [(target, 3, fusion)]
