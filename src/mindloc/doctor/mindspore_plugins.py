"""What the installed MindSpore says itself: whether it can be imported, and which plugins it loaded."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mindloc.doctor.finding import Finding, wrong
from mindloc.doctor.machine import Machine
from mindloc.doctor.packages import INSTALL
from mindloc.doctor.program import ask, last_line

PLUGIN_FILES = {"Ascend": "libmindspore_ascend.so", "GPU": "libmindspore_gpu.so"}
QUESTION = """
import json, sys
sys.path.insert(0, {source!r})
from mindloc.doctor.mindspore_plugins import told_by_mindspore
print(json.dumps(vars(told_by_mindspore())))
"""


@dataclass(frozen=True)
class Told:
    """MindSpore's own word on its plugins."""

    loaded: Mapping[str, bool]  # by target
    error: str  # what the system's loader said of those that it could not load, all lines together

    def complaint(self, target: str) -> str:
        """The loader's words on the plugin of one target, "" if there are none."""
        lines = [line for line in self.error.splitlines() if PLUGIN_FILES[target] in line]
        return lines[0].partition("failed. ")[2].strip() or lines[0] if lines else ""


def told_by_mindspore() -> Told:
    """Imports MindSpore into this process, where it has not been."""
    import mindspore as ms
    from mindspore._c_expression import MSContext

    context = ms.device_context
    loaded = {"Ascend": context.ascend.is_available(), "GPU": context.gpu.is_available()}
    return Told(loaded, MSContext.get_instance().load_plugin_error())


def ask_mindspore(machine: Machine) -> Told | Finding:
    """Import MindSpore in a process of its own (some seconds, 0.4 GB): what it told, or why it could not be asked."""
    environ = {"GLOG_v": "3", **machine.environ}
    answer = ask([sys.executable, "-c", QUESTION.format(source=str(Path(__file__).parents[2]))], environ, 120)
    if answer.code != 0:
        return wrong("MindSpore", "import", f"import mindspore fails: {last_line(answer.err)}", f"reinstall: {INSTALL}")
    return Told(**json.loads(answer.out.splitlines()[-1]))
