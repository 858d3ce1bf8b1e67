"""N ranks with batch B compute the same updates as one rank with batch N * B, up to rounding."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import two_ranks

from mindloc.launch.host import free_port

SCRIPT = Path(__file__).with_name("two_ranks.py")


def start(role: str, out: Path, port: int, **environment: str) -> subprocess.Popen:
    cluster = {"MS_WORKER_NUM": "2", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": str(port), "MS_ROLE": role}
    python_path = os.pathsep.join([str(SCRIPT.parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(out)],
        env={**os.environ, **cluster, "PYTHONPATH": python_path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def of_two_ranks(tmp_path_factory) -> list[dict[str, np.ndarray]]:
    """The results of two ranks, each in its own process."""
    out, port = tmp_path_factory.mktemp("ranks"), free_port()
    processes = [start("MS_SCHED", out, port)]
    processes += [start("MS_WORKER", out, port, MS_NODE_ID=str(rank), DEVICE_ID=str(rank)) for rank in range(2)]
    try:
        outputs = [process.communicate()[0] for process in reversed(processes)]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(outputs)
    return [dict(np.load(out / f"rank_{rank}.npz")) for rank in range(2)]


@pytest.fixture(scope="module")
def of_one_rank() -> dict[str, np.ndarray]:
    return two_ranks.train_all()


def of_case(case: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if name.startswith(f"{case}/")}


@pytest.mark.slow
@pytest.mark.parametrize("case", two_ranks.CASES)
def test_two_ranks_compute_the_same_as_one(case, of_one_rank, of_two_ranks):
    expected, found = of_case(case, of_one_rank), of_case(case, of_two_ranks[0])
    assert found.keys() == expected.keys() >= {f"{case}/losses", f"{case}/norms", f"{case}/log_logit_scale"}
    for name, array in expected.items():
        scale = max(1.0, np.abs(array).max()) if name.endswith(("losses", "norms")) else 1.0
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.slow
def test_ranks_have_bit_identical_weights(of_two_ranks):
    """The weights include the logit scale."""
    first, second = of_two_ranks
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)
    assert abs(first["whole/log_logit_scale"] - np.log(1 / 0.07)) > 1e-3  # it was trained
    assert np.abs(first["two stages/head.non_local.last.weight"]).max() > 0 and "two stages/head.csmg.centers" in first
