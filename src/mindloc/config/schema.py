"""One experiment: all sections, checked together.

One YAML file under ``configs/`` is one experiment: it names only what differs from the defaults of ``sections.py``. A
``Config`` goes to the builders, the trainer and the evaluation; everything else gets a section or plain values.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ModelWrapValidatorHandler, ValidationError, model_validator

from mindloc.config.messages import first_problem
from mindloc.config.rules import (
    check_accumulation,
    check_hard_negatives,
    check_head,
    check_image_sizes,
    check_start,
)
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
from mindloc.registry import READERS
from mindloc.vocabulary import SIDES, SideName, ViewSpec


class Config(Section):
    """The settings of one experiment; ``with_values`` gives a changed copy.

    Raises:
        ConfigError: a name that does not exist, a value of another type or out of its range, values that contradict
            each other; in one line that names the key.
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
        check_image_sizes(config.data, config.model)
        check_start(config.train, config.model)
        check_accumulation(config.train)
        check_hard_negatives(config.sampling, config.train, config.data)
        check_head(config.head, config.search, config.data, config.model)
        return config

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """The same config with other values, ``{"train.epochs": 3, "model.pretrained": None}``, checked again.

        Raises:
            ConfigError: as ``Config``.
        """
        return Config.model_validate(with_set(self.model_dump(), values.items()))

    def value(self, key: str) -> Any:
        """The value of ``section.key``."""
        section, name = key.split(".")
        return getattr(getattr(self, section), name)

    def view(self, side: SideName) -> ViewSpec:
        """What a side of a pair shows, and how its images are brought to the encoder.

        ``augment.cut_border`` concerns the query side alone: the border of a reference image belongs to the ground that
        its overlaps were computed for.
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
        """The side of a pair that shows a view, such as "drone"; the query side where both show the same.

        Raises:
            ConfigError: none does.
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
    """``tree``, in which each value is put under its ``section.key``, or a whole section under its name.

    Raises:
        ConfigError: what a key calls a section is a value.
    """
    for key, value in values:
        *sections, name = key.split(".")
        at = tree
        for section in sections:
            if at.get(section) is None:
                at[section] = {}
            at = at[section]
            if not isinstance(at, dict):
                raise ConfigError(f"config key {key} can't be set: {section} is a value, not a section")
        at[name] = value
    return tree
