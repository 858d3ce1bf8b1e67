"""Settings of the scores by the names of their keys, without the section."""

from mindloc.config.sections import EvalConfig, SearchConfig
from mindloc.evaluation.score import ScoreSettings


def score_settings(mode="pos", **values):
    """Score settings from keys of the sections search and eval, e.g. ``recall_n=5, bootstrap=20``."""
    search = {key: values.pop(key) for key in SearchConfig.model_fields if key in values}
    return ScoreSettings(mode=mode, eval=EvalConfig(**values), search=SearchConfig(**search))
