"""Constraints between settings: values that are valid each but contradict each other."""

from mindloc.config.messages import require
from mindloc.config.sections import (
    DataConfig,
    HeadConfig,
    ModelConfig,
    SamplingConfig,
    SearchConfig,
    TrainConfig,
)
from mindloc.registry import BACKBONES, HEADS

_SIZES = ("query_size_px", "reference_size_px")


def check_image_sizes(data: DataConfig, model: ModelConfig) -> None:
    """Image sides are multiples of the stride."""
    stride = model.stride_px
    of = f"{stride}, the stride" if BACKBONES[model.backbone].stride else f"model.patch_px={stride}"
    for key in _SIZES:
        size = getattr(data, key)
        near = [max(1, round(side / stride)) * stride for side in size]
        fits = all(side % stride == 0 for side in size)
        require(fits, f"data.{key}", size, f"height and width that are multiples of {of}, for example {near}")


def check_start(train: TrainConfig, model: ModelConfig) -> None:
    """A training starts from one weights file."""
    require(
        train.checkpoint_start is None or model.pretrained in (None, train.checkpoint_start),
        "train.checkpoint_start",
        train.checkpoint_start,
        f"the only initial weights, but model.pretrained is {model.pretrained}; set one of the two to null",
    )


def check_accumulation(train: TrainConfig) -> None:
    """The batch divides into equal parts."""
    fits = train.batch_size % train.accumulate == 0
    require(fits, "train.batch_size", train.batch_size, f"a multiple of train.accumulate={train.accumulate}")
    require(
        not train.grad_cache or train.accumulate > 1,
        "train.grad_cache",
        train.grad_cache,
        "false with train.accumulate=1, which keeps the batch whole; set train.accumulate to the number of parts",
    )


def check_hard_negatives(sampling: SamplingConfig, train: TrainConfig, data: DataConfig) -> None:
    """Hard negatives are used before the training ends, and fit a batch and their candidates."""
    source, first_epoch = sampling.hard_negatives, sampling.hard_from_epoch
    if source == "none":
        return
    fits = round(sampling.hard_share * train.batch_size) >= 1
    expected = f"a fraction of train.batch_size={train.batch_size} that is at least one pair"
    require(fits, "sampling.hard_share", sampling.hard_share, expected)
    expected = f"at most sampling.neighbors={sampling.neighbors}"
    require(sampling.mined_per_pair <= sampling.neighbors, "sampling.mined_per_pair", sampling.mined_per_pair, expected)
    expected = f"below train.epochs={train.epochs}, or it is never reached: train longer or start earlier"
    require(first_epoch < train.epochs, "sampling.hard_from_epoch", first_epoch, expected)
    if source == "map_then_descriptors":
        expected = "1 or more with map_then_descriptors; or set sampling.hard_negatives=descriptors"
        require(first_epoch > 0, "sampling.hard_from_epoch", first_epoch, expected)
    if source != "map":
        expected = f"stop with sampling.hard_negatives={source}, which encodes every training image"
        require(data.on_bad_image == "stop", "data.on_bad_image", data.on_bad_image, expected)


def check_head(head: HeadConfig, search: SearchConfig, data: DataConfig, model: ModelConfig) -> None:
    """The head divides the backbone's feature map evenly, and the search re-ranks at most what it recalls."""
    reads = HEADS[head.name].reads
    expected = f"at most search.recall_n={search.recall_n}"
    require(search.consistency_m <= search.recall_n, "search.consistency_m", search.consistency_m, expected)
    for option, cells in (("non_local_pool", head.non_local_pool), ("omega_grid", head.omega_grid or 1)):
        for key in _SIZES if f"head.{option}" in reads else ():
            grid = [side // model.stride_px for side in getattr(data, key)]
            fits = all(side % cells == 0 for side in grid)
            require(fits, f"head.{option}", cells, f"a divisor of both sides of the {grid} map of data.{key}")
    require(
        "head.omega_grid" not in reads or head.omega_grid > 0 or data.query_size_px == data.reference_size_px,
        "head.omega_grid",
        head.omega_grid,
        "above 0 where data.query_size_px and data.reference_size_px differ: both sides need maps of one size",
    )
