"""The real msrun, two ranks on CPU: they meet, and if one dies, all end at once with the reason."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import alive, wait_for
from test_supervise import SOURCE, first_line

from mindloc.launch.plan import plan_ranks

GATHER = """
import time
import numpy as np, mindspore as ms
from mindspore import ops
from mindspore.communication import get_rank, init
ms.set_device("CPU")
init()
while True:
    rows = ops.AllGather()(ms.Tensor(np.full((1, 1), get_rank(), np.float32))).asnumpy()
    print("gathered", rows.tolist(), flush=True)
    time.sleep(0.2)
"""


def plan(directory):
    script = directory / "gather.py"
    script.write_text(GATHER)
    command = [sys.executable, str(script)]
    return plan_ranks(command, target="CPU", log_dir=directory / "logs", device_ids=(0, 1))


SUPERVISOR = """
import sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_msrun import plan
from mindloc.launch.supervise import run_plan
sys.exit(run_plan(plan(Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_killing_a_rank_ends_the_launch_with_the_reason(tmp_path):
    """msrun itself would wait half a minute for its scheduler, and end with a traceback."""
    paths = [str(SOURCE), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path), *paths], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    logs = {name: tmp_path / "logs" / f"{name}.log" for name in ("rank_0", "rank_1", "scheduler", "msrun")}
    try:
        wait_for(lambda: logs["rank_1"].exists() and b"gathered" in logs["rank_1"].read_bytes())
        numbers = {name: int(first_line(log).rpartition(" ")[2]) for name, log in logs.items()}
        assert all(map(alive, numbers.values()))
        os.kill(numbers["rank_1"], signal.SIGKILL)
        shown, error = (output.decode() for output in supervisor.communicate())
    finally:
        supervisor.kill()
        supervisor.communicate()
    assert supervisor.returncode == 137
    assert "gathered [[0.0], [1.0]]" in shown  # the first rank's log, live
    for rank in (0, 1):
        assert f"; rank {rank} of 2, process {numbers[f'rank_{rank}']}" in first_line(logs[f"rank_{rank}"])
    assert f"error: rank 1 of 2 was ended by SIGKILL; the other ranks were stopped; its log: {logs['rank_1']}" in error
    assert not any(map(alive, numbers.values()))
