"""What every rank of a training would refuse, refused once and before any of them is started; without MindSpore."""

from pathlib import Path

from mindloc.config import config_to_dict
from mindloc.config.schema import Config
from mindloc.launch.servers import require_shareable_batch
from mindloc.runtime.kernels import require_precision
from mindloc.runtime.run_folder import RunFolder
from mindloc.training.resume import check_begin_epoch, check_settings, find_resume_point


def check_beforehand(config: Config, target: str, ranks: int, resumed: Path | None, begin_epoch: int | None) -> None:
    """Check how batch, precision and checkpoint fit the ranks.

    Args:
        target: "CPU", "GPU" or "Ascend", where the training will run.
        resumed: run folder to go on with.
        begin_epoch: epochs that the user takes for done.

    Raises:
        LaunchError: the batch can't be shared among the ranks.
        DeviceError: the target does not train in that precision.
        CheckpointError: the run stands elsewhere, is damaged, or belongs to another model.
    """
    require_shareable_batch(config.train.batch_size, ranks)
    if target != "Ascend":  # there it depends on the chip, which the ranks alone can ask
        require_precision(config.train.precision, target, training=True)
    point = find_resume_point(RunFolder.open(resumed)) if resumed else None
    check_begin_epoch(point, begin_epoch)
    if point:
        check_settings(point, config_to_dict(config))
