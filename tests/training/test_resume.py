"""Where a run goes on, and how a person gets past a damaged checkpoint."""

import numpy as np
import pytest

from mindloc.errors import CheckpointError
from mindloc.runtime.checkpoint import save_state, save_weights, state_path
from mindloc.runtime.run_folder import RunFolder
from mindloc.training.progress import Progress
from mindloc.training.resume import find_resume_point


@pytest.mark.parametrize("damaged", ["weights", "state"])
def test_past_a_damaged_checkpoint_to_the_one_before_it(tmp_path, damaged):
    run = RunFolder.create(tmp_path, "run", "{}", [])
    for step in (1, 2):
        path = run.checkpoints / f"weights_e{step}_s{step}.safetensors"
        sha256 = save_weights(path, {"w": np.zeros(3, np.float32)}, {})
        save_state(path, sha256, {}, {"step": step, "progress": Progress(epoch=step, step=step).to_dict()})
    assert find_resume_point(run).progress.step == 2
    broken = path if damaged == "weights" else state_path(path)
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=f"{broken.name}.*delete its two files in {run.checkpoints}"):
        find_resume_point(run)
    path.unlink()
    state_path(path).unlink()
    assert find_resume_point(run).progress.step == 1
