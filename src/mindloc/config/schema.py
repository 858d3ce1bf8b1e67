"""``Config``: the settings of one experiment, all sections checked together.

One YAML file, such as those in ``mindloc/configs/``, is one experiment: it states only what differs from the defaults
of ``sections.py``.
Builders, trainer and evaluation get the whole ``Config``; everything else gets a section or plain values.
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
        """View of a side of a pair, and how its images become the encoder's input.

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
        """The side of a pair that shows a view, such as "drone"; the query side where both show the same.

        Raises:
            ConfigError: no side shows it.
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
        ConfigError: a key goes through a value as if it were a section.
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
