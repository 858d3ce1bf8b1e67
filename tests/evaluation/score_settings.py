"""Settings of the scores by the bare names of their keys."""

from mindloc.config.sections import EvalConfig, SearchConfig
from mindloc.evaluation.score import ScoreSettings


def score_settings(mode="pos", **values):
    """Those of the search and of the evaluation section, e.g. ``recall_n=5, bootstrap=20``."""
    search = {key: values.pop(key) for key in SearchConfig.model_fields if key in values}
    return ScoreSettings(mode=mode, eval=EvalConfig(**values), search=SearchConfig(**search))
