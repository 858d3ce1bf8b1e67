"""Extract once, then score from disk: metrics, baselines, report and figures."""
