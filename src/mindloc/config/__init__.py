"""Settings of a run: every key in ``sections``, constraints between keys in ``schema``, YAML in ``loader``."""

from mindloc.config.loader import (
    AFTER_TRAINING,
    config_from_dict,
    config_to_dict,
    dump_yaml,
    load_config,
    override_after_training,
    override_config,
    override_for_evaluation,
)
from mindloc.config.schema import Config

__all__ = [
    "AFTER_TRAINING",
    "Config",
    "config_from_dict",
    "config_to_dict",
    "dump_yaml",
    "load_config",
    "override_after_training",
    "override_config",
    "override_for_evaluation",
]
