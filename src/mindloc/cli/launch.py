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

from mindloc.cli.beforehand import check_beforehand
from mindloc.cli.boundary import OneLineParser, command
from mindloc.cli.script_arguments import SCRIPTS, Script, ScriptArguments, read_arguments
from mindloc.cli.trainer_words import PROJECT, Training, config_path, set_words, trainer_words, yaml_text
from mindloc.config import Config
from mindloc.errors import LaunchError
from mindloc.launch.log_folder import new_log_folder, remove_log_folder
from mindloc.launch.plan import Plan, plan_ranks
from mindloc.launch.process import alone
from mindloc.launch.rank_table import read_rank_table
from mindloc.launch.servers import cards_of_this_server, meeting_place, place_of_this_server
from mindloc.launch.supervise import run_plan
from mindloc.launch.target import settled_target
from mindloc.runtime.checkpoint import weights_of_run

DEFAULT_CONFIG = "configs/gta_uav_cross.yaml"


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
    if script.evaluates:
        return become_evaluation(script, given)
    return run_plan(plan_training(script, given, os.environ))


def become_evaluation(script: Script, given: ScriptArguments) -> int:
    """Turn into eval.py: one process, whose console is its log."""
    target = ["--device_target", script.target] if script.target else []
    assert given.checkpoint is not None  # read_arguments asks for it
    checkpoints = given.checkpoint / "checkpoints"
    weights = weights_of_run(checkpoints) if checkpoints.is_dir() else given.checkpoint
    words = ["--checkpoint", str(weights), "--data_root", yaml_text(given.dataset)]
    words += ["--device_id", str(given.device_ids[0]), *target, *given.options]
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, str(PROJECT / script.program), *words], alone(os.environ))


def plan_training(script: Script, given: ScriptArguments, environment: Mapping[str, str]) -> Plan:
    """The ranks of a training on this server, after everything that can be checked beforehand.

    Raises:
        LaunchError: an argument, the rank table or the number of ranks does not fit.
        ConfigError: the config or an override is refused.
        DeviceError, CheckpointError: as ``check_beforehand``.
    """
    words, config, launcher = training_words(script, given, environment)
    table = read_rank_table(given.table) if given.table else None
    server, count = place_of_this_server(environment, table, script.several)
    cards = given.device_ids or cards_of_this_server(given.ranks or 0, config.run.device_ids)
    size = table.size if table else len(cards) * count
    target, settled = settled_target(config.run.device_target, environment)
    words += settled
    check_beforehand(config, target, size, given.checkpoint if resumes(given) else None, given.begin_epoch)
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
        remove_log_folder(log_dir)  # nothing was started
        raise


def training_words(
    script: Script, given: ScriptArguments, environment: Mapping[str, str]
) -> tuple[list[str], Config, str | None]:
    """(arguments of train.py, the config that they make, the launcher asked for)."""
    explained = f"{script.file} knows the options of python train.py --help, --config and --launcher"
    own = OneLineParser(prog=script.file, allow_abbrev=False, add_help=False, way_out=explained)
    own.add_argument("--config", type=Path)
    own.add_argument("--launcher")
    mine, options = own.parse_known_args(given.options)
    if "--resume" in options:
        raise LaunchError("--resume is train.py's own; here the run folder to go on with is CHECKPOINT_PATH")
    resumed = given.checkpoint if resumes(given) else None
    experiment = mine.config or Path(environment.get("CONFIG") or PROJECT / DEFAULT_CONFIG)
    training = Training(
        config=resumed / "config.yaml" if resumed else config_path(experiment),
        data=given.dataset,
        resumed=resumed,
        weights=None if resumed else given.checkpoint,
        target=script.target,
        evaluates=given.eval_callback,
        begin_epoch=given.begin_epoch,
    )
    place = set_words([f"run.work_dir={yaml_text(given.output)}"])
    words, config = trainer_words(training, place, options, explained)
    # a shell's LAUNCHER does not concern a training of one rank
    return words, config, mine.launcher or (environment.get("LAUNCHER") if script.several else None) or None


def resumes(given: ScriptArguments) -> bool:
    """Whether the checkpoint is a run to go on with.

    Raises:
        LaunchError: it is another folder.
    """
    if given.checkpoint is None or given.checkpoint.is_file():
        return False
    if not (given.checkpoint / "config.yaml").is_file():
        raise LaunchError(
            f"CHECKPOINT_PATH {given.checkpoint} is a folder without config.yaml; give a run folder "
            "(work_dir/NAME/MMDDhhmmss) to go on with it, or a .safetensors file to begin from its weights"
        )
    return True
