"""Commands for evaluation: ``eval`` extracts descriptors and scores them, ``score`` repeats the scores from disk."""

from datetime import datetime
from pathlib import Path

import click

from mindloc.api import Encoder, evaluate
from mindloc.cli.command import PATH, command
from mindloc.cli.options import EngineArguments, config_options, engine_options
from mindloc.config import override_for_evaluation
from mindloc.data.readers import SplitName
from mindloc.evaluation.report import summary
from mindloc.evaluation.rescore import rescore
from mindloc.inference.build import EngineRequest, read_source
from mindloc.registry import ENGINES
from mindloc.runtime.run_directory import run_of

EVAL_FLAGS = (
    "--data_root",
    "--train_pairs_meta_file",
    "--test_pairs_meta_file",
    "--test_mode",
    "--query_mode",
    "--drone_size_px",
    "--satellite_size_px",
    "--device_target",
    "--device_id",
)


@command("eval", example="--checkpoint work_dir/latest")
@engine_options
@click.option("--split", type=click.Choice(["test", "train"]), default="test", help="pairs to evaluate; default: test")
@click.option("--out", type=PATH, metavar="DIRECTORY", help="directory of the report; default: reports/ of the run")
@config_options(EVAL_FLAGS, of_checkpoint=True)
def evaluate_encoder(engine: EngineArguments, split: SplitName, out: Path | None, overrides: tuple[str, ...]) -> None:
    """Evaluate a checkpoint or exported files: extract descriptors once, score them from disk, write report and
    figures.

    The architecture comes from the checkpoint, or from the cards of the exported files, and so do the data and
    evaluation settings that no flag or --set changes.
    """
    request = engine.request()
    source = read_source(request)
    config = override_for_evaluation(source.config, overrides)
    out = out or _report_directory(request, split)
    report = evaluate(Encoder(request, source, config, print), out, split=split)
    print(f"{summary(report)}\n")
    for role in ("query", "reference"):
        print(f"{report['data'][f'{role}_view']}: {report['origin'][f'{role}_extraction']}")
    for note in report["notes"]:
        print(f"note: {note}")
    print(f"report and figures: {out}")


def _report_directory(request: EngineRequest, split: str) -> Path:
    """``reports/{split}_{what}_{time}`` in the run that the encoder comes from, or beside a file without a run."""
    if request.checkpoint is not None:
        run, stem = run_of(request.checkpoint), request.checkpoint.stem
    elif request.exported.is_dir():
        run, stem = request.exported.parent, request.exported.name
    else:
        run, stem = request.exported.parent.parent, request.exported.stem
    engine = f"{request.engine}_" if ENGINES[request.engine].file_format else ""
    return run / "reports" / f"{split}_{engine}{stem}_{datetime.now():%m%d%H%M%S}"


@command("score", example="work_dir/latest/reports/e5")
@click.argument("directory", type=PATH)
@click.option("--no_figures", is_flag=True, help="numbers only; the figures stay as they are")
def score(directory: Path, no_figures: bool) -> None:
    """Recompute an evaluation from the descriptor sets and ground truth in its DIRECTORY: the same numbers, without
    device or checkpoint.
    """
    print(f"{summary(rescore(directory, figures=not no_figures))}\n")
    print(f"report: {directory / 'report.md'}")
