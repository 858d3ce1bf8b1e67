"""Start a training or an evaluation as the scripts do: scripts/run_*.sh call this with their own arguments.

Environment: CONFIG, the experiment (configs/gta_uav_cross.yaml). LAUNCHER, rank_table or msrun. Of several servers:
SERVER_ID, which one this is, from 0 (found by its address in a rank table); MASTER_ADDR and MASTER_PORT, where ranks
under msrun meet (the first server of a rank table, 8118); SERVER_COUNT, how many there are when no rank table says so.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import mindloc
from mindloc.cli import train
from mindloc.cli.boundary import command
from mindloc.config import Config, load_config
from mindloc.errors import LaunchError
from mindloc.launch.log_folder import new_log_folder
from mindloc.launch.plan import Plan, plan_ranks
from mindloc.launch.process import alone, with_source
from mindloc.launch.program_arguments import eval_arguments, resumes, train_arguments
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.script_arguments import SCRIPTS, Script, ScriptArguments, read_arguments
from mindloc.launch.servers import cards_of_this_server, meeting_place, place_of_this_server, require_shareable_batch
from mindloc.launch.supervise import run_plan
from mindloc.launch.target import best_target

PROJECT = Path(mindloc.__file__).resolve().parents[2]
DEFAULT_CONFIG = "configs/gta_uav_cross.yaml"


class _OneLineParser(argparse.ArgumentParser):
    """Says what is wrong as every error here is said."""

    def error(self, message: str) -> None:
        raise LaunchError(
            f"{message}; {self.prog} knows the options of python train.py --help, --config and --launcher"
        )


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mindloc launch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{kind:11} {script.usage}" for kind, script in SCRIPTS.items()),
    )
    parser.add_argument("kind", choices=SCRIPTS, metavar="KIND", help=f"one of {', '.join(SCRIPTS)}")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    return parser


@command
def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    script = SCRIPTS[args.kind]
    if args.arguments in (["-h"], ["--help"]):
        print(f"{script.usage}\n\n{__doc__}")
        return 0
    given = read_arguments(script, args.arguments)
    if script.program == "eval.py":
        return become_evaluation(script, given)
    return run_plan(plan_training(script, given, os.environ))


def become_evaluation(script: Script, given: ScriptArguments) -> int:
    """Turn into eval.py: one process, whose console is its log."""
    target = ["--device_target", script.target] if script.target else []
    words = [*eval_arguments(given), "--device_id", str(given.device_ids[0]), *target, *given.options]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, str(PROJECT / script.program), *words], alone(os.environ))


def plan_training(script: Script, given: ScriptArguments, environment: Mapping[str, str]) -> Plan:
    """The ranks of a training on this server, after everything that can be checked beforehand.

    Raises:
        LaunchError: an argument, the rank table or the number of ranks does not fit.
        ConfigError: the config or an override is refused.
    """
    words, config, launcher = trainer_words(script, given, environment)
    table = read_rank_table(given.table) if given.table else None
    server, count = place_of_this_server(environment, table, script.first != "DEVICE_ID")
    cards = given.device_ids or cards_of_this_server(given.ranks or 0, config.run.device_ids)
    size = table.size if table else len(cards) * count
    require_shareable_batch(config.train.batch_size, size)
    target = config.run.device_target
    if target == "auto":
        target = best_target(with_source(environment))
        words += ["--device_target", target]  # so that no rank finds another
    if size == 1:  # alone it takes its card from the config
        words += ["--device_id", str(table.servers[0].cards[0].device_id if table else cards[0])]
    master = meeting_place(environment, count)
    log_dir = new_log_folder(given.output)
    try:
        return plan_ranks(
            [sys.executable, str(PROJECT / script.program), *words],
            target=target,
            log_dir=log_dir,
            table=table,
            device_ids=cards,
            server_index=server,
            server_count=count,
            master=master,
            launcher=launcher,
            environment=environment,
        )
    except LaunchError:
        log_dir.rmdir()  # nothing was started
        raise


def trainer_words(
    script: Script, given: ScriptArguments, environment: Mapping[str, str]
) -> tuple[list[str], Config, str | None]:
    """(arguments of train.py, the config that they make, the launcher asked for)."""
    own = _OneLineParser(prog=script.file, allow_abbrev=False, add_help=False)
    own.add_argument("--config", type=Path)
    own.add_argument("--launcher")
    mine, options = own.parse_known_args(given.options)
    path = given.checkpoint / "config.yaml" if resumes(given) else _config_path(mine.config, environment)
    words = train_arguments(given, path)
    if script.target:
        words += ["--device_target", script.target]
    if given.eval_callback and load_config(path).train.eval_every_epochs == 0:
        words += ["--set", "train.eval_every_epochs=1"]
    words += options
    trainer = train.parser()
    trainer.error = own.error
    config = load_config(path, trainer.parse_args(words).overrides)
    if given.begin_epoch is not None:
        words += ["--begin_epoch", str(given.begin_epoch)]
    several = script.first != "DEVICE_ID"  # a shell's LAUNCHER does not concern a training of one rank
    return words, config, mine.launcher or (environment.get("LAUNCHER") if several else None) or None


def _config_path(named: Path | None, environment: Mapping[str, str]) -> Path:
    """The experiment; a relative path counts from here, else from the project."""
    path = named or Path(environment.get("CONFIG") or PROJECT / DEFAULT_CONFIG)
    return path.absolute() if path.exists() else PROJECT / path
