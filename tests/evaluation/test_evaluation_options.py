"""Options of the evaluation have their effect on the report."""

import json
import re

from PIL import Image
from test_evaluate import ColorEngine

from mindloc.config import load_config
from mindloc.evaluation.evaluate import evaluate
from mindloc.evaluation.report import main_metrics, summary


def test_the_report_has_the_ranks_the_mode_and_the_rows_that_were_requested(color_split, tmp_path):
    options = ["eval.recall_at=[2, 3]", "eval.sdm_at=[2]", "eval.contact_sheet_queries=3", "eval.bootstrap=50"]
    options += ["data.test_mode=pos_semipos", "data.query_size_px=[16, 16]", "data.reference_size_px=[16, 16]"]
    config = load_config(None, [*options, "data.workers=1"])
    report = evaluate(ColorEngine(), config, color_split, tmp_path / "r", None, baselines=False)
    methods = report["methods"]
    assert report["mode"] == "pos_semipos"
    assert {"recall@2", "recall@3", "sdm@2"} <= methods["model"]["pos"].keys()
    assert not {"recall@5", "sdm@3"} & methods["model"]["pos"].keys()  # the defaults'
    assert json.loads((tmp_path / "r" / "setup.json").read_text())["settings"]["eval"]["contact_sheet_queries"] == 3
    # Recall@1, which decides which epoch is best and is on the contact sheet, does not depend on eval.recall_at
    assert methods["model"]["pos_semipos"]["recall@1"] == 1.0 and "recall@1" in methods["chance"]["pos"]
    # the tables on the console and in a training run have these ranks too
    main = ["recall@1", "recall@2", "recall@3", "ap", "sdm@2", "dis@1_median_m"]
    assert main_metrics(methods["model"]["pos"]) == main
    title = next(line for line in summary(report).splitlines() if line.startswith("answers by"))
    assert re.split(r"\s{2,}", title)[1:] == ["R@1", "95 % interval", "R@2", "AP", "SDM@2", "Dis@1 median"]
    with Image.open(tmp_path / "r" / "contact_sheet.png") as sheet, Image.open(tmp_path / "r" / "distance_curve.png"):
        assert sheet.size[0] > 1000
