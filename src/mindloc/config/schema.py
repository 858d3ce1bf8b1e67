"""``Config``: the settings of one experiment, all sections checked together.

One YAML file, such as those in ``mindloc/configs/``, is one experiment: it states only what differs from the defaults
of ``sections.py``. Builders, trainer and evaluation get the whole ``Config``; everything else gets a section or plain
values.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from mindloc.config.messages import first_problem, require, shown
from mindloc.config.sections import (
    AugmentConfig,
    DataConfig,
    EvalConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    SamplingConfig,
    ScheduleConfig,
    SearchConfig,
    Section,
    TrainConfig,
)
from mindloc.errors import ConfigError
from mindloc.registry import BACKBONES, HEADS, READERS
from mindloc.vocabulary import SIDES, SideName, ViewSpec

# keys of a second data set, which is used for evaluation
OF_TEST_ROOT = ("data.test_root", "data.test_map_px", "data.test_m_per_px")
_SIZES = ("query_size_px", "reference_size_px")


class Config(Section):
    """The settings of one experiment; ``with_values`` gives a changed copy.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of range, values that contradict each other.
    """

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    sampling: SamplingConfig = SamplingConfig()
    model: ModelConfig = ModelConfig()
    head: HeadConfig = HeadConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    search: SearchConfig = SearchConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, tree: Any, handler: ModelWrapValidatorHandler["Config"]) -> "Config":
        try:
            config = handler(tree)
        except ValidationError as error:
            raise first_problem(error, tree, cls) from None
        _check_image_sizes(config.data, config.model)
        _check_cities(config.data)
        _check_start(config.train, config.model)
        _check_accumulation(config.train)
        _check_hard_negatives(config.sampling, config.train, config.data)
        _check_head(config.head, config.search, config.data, config.model)
        return config

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """A copy of the config with other values, such as ``{"train.epochs": 3}``, checked again.

        Raises:
            ConfigError: for the reasons given in ``Config``.
        """
        return Config.model_validate(with_set(self.model_dump(), values.items()))

    def with_root(self, root: str | Path) -> "Config":
        """A copy of the config that reads training and test pairs from one data set, in the directory ``root``."""
        return self.with_values({"data.root": str(root), **dict.fromkeys(OF_TEST_ROOT)})

    def value(self, key: str) -> Any:
        """The value of ``section.key``."""
        section, name = key.split(".")
        return getattr(getattr(self, section), name)

    def view(self, side: SideName) -> ViewSpec:
        """The view of one side of a pair, and how its images become the encoder's input.

        ``augment.cut_border`` applies to the query side only: overlaps were computed for the whole reference image.
        """
        is_query = side == "query"
        return ViewSpec(
            name=READERS[self.data.reader].views[SIDES.index(side)],
            size_px=self.data.query_size_px if is_query else self.data.reference_size_px,
            cut_border=self.augment.cut_border if is_query else 0.0,
            rotate=self.augment.rotate_query if is_query else self.augment.rotate_reference,
            mean=self.model.mean,
            std=self.model.std,
        )

    def side_of(self, view: str) -> SideName:
        """The side of a pair that shows a view, such as "drone"; the query side if both sides show it.

        Raises:
            ConfigError: no side shows the view.
        """
        reader = self.data.reader
        views = READERS[reader].views
        if view not in views:
            raise ConfigError(
                f"view {view} is not among the {' and '.join(dict.fromkeys(views))} images of data.reader={reader}; "
                f"give --view {' or '.join(dict.fromkeys(views))}"
            )
        return SIDES[views.index(view)]


def with_set(tree: dict[str, Any], values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """``tree`` with each value set at its ``section.key``, or a whole section at its name.

    Raises:
        ConfigError: a key treats a value as if it were a section.
    """
    for key, value in values:
        *sections, name = key.split(".")
        at = tree
        for section in sections:
            if at.get(section) is None:
                at[section] = {}
            at = at[section]
            if not isinstance(at, dict):
                raise ConfigError(
                    f"config key {key} can't be set: {section} is a value, not a section; write section.key"
                )
        at[name] = value
    return tree


# checks for values that are valid by themselves but contradict each other -------------------------------------------


def _check_image_sizes(data: DataConfig, model: ModelConfig) -> None:
    """Check that image sides are multiples of the stride."""
    stride = model.stride_px
    of = f"{stride}, the stride" if BACKBONES[model.backbone].stride else f"model.patch_px={stride}"
    for key in _SIZES:
        size = getattr(data, key)
        near = [max(1, round(side / stride)) * stride for side in size]
        fits = all(side % stride == 0 for side in size)
        require(fits, f"data.{key}", size, f"height and width that are multiples of {of}, for example {near}")


def _check_cities(data: DataConfig) -> None:
    """Each city is for training or for testing; of other readers these are keys that are not read."""
    if "data.cities" not in READERS[data.reader].reads:
        return
    train, test = data.cities, data.test_cities
    if data.area == "same":
        require(not test, "data.test_cities", test, "an empty list with data.area=same, where data.cities names both")
        return
    require(
        not set(train) & set(test), "data.test_cities", test, f"cities that data.cities={shown(train)} does not name"
    )
    key, value, other = ("test_cities", test, "cities") if train else ("cities", train, "test_cities")
    text = f"cities too with data.area=cross, as data.{other} names some"
    require(bool(train) == bool(test), f"data.{key}", value, text)


def _check_start(train: TrainConfig, model: ModelConfig) -> None:
    """Check that a training run starts from one weights file."""
    require(
        train.checkpoint_start is None or model.pretrained in (None, train.checkpoint_start),
        "train.checkpoint_start",
        train.checkpoint_start,
        f"the only initial weights, but model.pretrained is {model.pretrained}; set one of the two to null",
    )


def _check_accumulation(train: TrainConfig) -> None:
    """Check that the batch can be divided into equal parts."""
    fits = train.batch_size % train.accumulate == 0
    require(fits, "train.batch_size", train.batch_size, f"a multiple of train.accumulate={train.accumulate}")
    require(
        not train.grad_cache or train.accumulate > 1,
        "train.grad_cache",
        train.grad_cache,
        "false with train.accumulate=1, which keeps the batch whole; set train.accumulate to the number of parts",
    )


def _check_hard_negatives(sampling: SamplingConfig, train: TrainConfig, data: DataConfig) -> None:
    """Check that hard negatives are used before the training ends, and that their numbers fit the batch."""
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


def _check_head(head: HeadConfig, search: SearchConfig, data: DataConfig, model: ModelConfig) -> None:
    """Check that the head divides the feature map evenly, and that the search re-ranks at most what it recalls."""
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
        "above 0 if data.query_size_px and data.reference_size_px differ: both sides need maps of the same size",
    )
