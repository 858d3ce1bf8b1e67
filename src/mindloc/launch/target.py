"""Which device target this machine offers, asked in a process of its own: the launcher itself holds no MindSpore."""

import subprocess
import sys
from collections.abc import Mapping

from mindloc.errors import LaunchError
from mindloc.launch.process import with_source

_QUESTION = (
    "from mindloc.runtime.device import check_mindspore, choose_target; "
    "check_mindspore(); print(choose_target('auto')[0])"
)


def settled_target(configured: str, environment: Mapping[str, str]) -> tuple[str, list[str]]:
    """(target, arguments that tell it to every rank): "auto" is settled once, so that no rank finds another.

    Args:
        configured: run.device_target; whether one that is named works the ranks find out.

    Raises:
        LaunchError: MindSpore can't be loaded; its own last words are in the line.
    """
    if configured != "auto":
        return configured, []
    target = best_target(environment)
    return target, ["--device_target", target]


def best_target(environment: Mapping[str, str]) -> str:
    """The first of Ascend, GPU, CPU that works here; raises as ``settled_target``."""
    environment = {"GLOG_v": "3", **with_source(environment)}
    answer = subprocess.run([sys.executable, "-c", _QUESTION], env=environment, capture_output=True, text=True)
    if answer.returncode != 0:
        words = answer.stderr.strip().splitlines() or ["no word"]
        raise LaunchError(
            f"{sys.executable} can't load MindSpore to find a device ({words[-1].strip()}); "
            "name one by --device_target, or see python -m mindloc doctor"
        )
    return answer.stdout.splitlines()[-1]
