"""Commands for data sets: ``world`` generates one from a seed, ``check-data`` checks one."""

import types
import typing
from pathlib import Path

import click

from mindloc.cli.command import PATH, SeveralOption, command
from mindloc.cli.options import config_options
from mindloc.config import load_config
from mindloc.config.meanings import field_comments
from mindloc.data.check import check_data
from mindloc.data.readers import SplitName
from mindloc.errors import DataError
from mindloc.runtime.console import progress_bar
from mindloc.runtime.files import atomic_directory, writing
from mindloc.runtime.lock import locked
from mindloc.world import spec
from mindloc.world.dataset import generate_world, require_free
from mindloc.world.spec import WorldSpec

SPLITS: tuple[SplitName, ...] = ("train", "test")


def _spec_options(function: typing.Callable) -> typing.Callable:
    """Add one option per field of WorldSpec, so that options and fields always agree."""
    for field, hint in reversed(typing.get_type_hints(WorldSpec).items()):
        function = _spec_option(field, hint, getattr(WorldSpec, field))(function)
    return function


def _spec_option(field: str, hint: typing.Any, default: typing.Any) -> typing.Callable:
    """An option of the field's type, with the comment beside the field as its help."""
    name, text = f"--{field}", field_comments(Path(spec.__file__))["WorldSpec", field]
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text += "" if default in (None, False) else f"; default: {shown}"
    if typing.get_origin(hint) is types.UnionType:  # X | None
        hint = typing.get_args(hint)[0]
    if hint is bool:
        return click.option(name, is_flag=True, help=text)
    if typing.get_origin(hint) is typing.Literal:
        return click.option(name, type=click.Choice(typing.get_args(hint)), default=default, help=text)
    if typing.get_origin(hint) is tuple:
        item, *others = typing.get_args(hint)
        word = "N" if item is int else "X"
        many = {"cls": SeveralOption, "metavar": f"{word} ..."}
        if others != [...]:
            many = {"nargs": 1 + len(others), "metavar": f"{word} {word}"}
        return click.option(name, type=item, default=default, help=text, **many)
    return click.option(name, type=hint, default=default, metavar="N" if hint is int else "X", help=text)


@command("world", example="data/world --seed 1 --drones 300")
@click.argument("out", type=PATH)
@_spec_options
def world(out: Path, **values: typing.Any) -> None:
    """Generate a data set in GTA-UAV's layout from a seed, in the new directory OUT: a map, its satellite tiles, and
    drone images of it. The same arguments give the same bytes.
    """
    chosen = WorldSpec(**{**values, "heights_m": values["heights_m"] or None})
    chosen.check()
    owned = locked(out, "world", DataError, "made", waits=False)  # who waited would find it made
    new = atomic_directory(out, "world", DataError, lambda _: require_free(out))
    with owned, writing(f"the world {out}", DataError), new as partial, _Bars() as bars:
        generate_world(chosen, partial, bars.show)
        require_free(out)
    print(
        f"{out}: a world of seed {chosen.seed}, {chosen.map_m:.0f} m wide; use it with\n"
        f"  --set data.map_px={chosen.map_px} --set data.m_per_px={chosen.m_per_px}"
    )


class _Bars:
    """One progress bar per stage on a terminal; nothing elsewhere."""

    def __init__(self):
        self._stage, self._bar = None, None

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self.__exit__()
            self._stage, self._bar = stage, progress_bar(total=total, initial=done, desc=stage)
        self._bar.update(done - self._bar.n)


@command("check-data", example="data/GTA-UAV")
@click.argument("root", required=False)
@config_options(("--train_pairs_meta_file", "--test_pairs_meta_file"))
@click.option("--lists_only", is_flag=True, help="check that the images exist, decode none")
def check(root: str | None, config: str | None, overrides: tuple[str, ...], lists_only: bool) -> int:
    """Read a data set, in the directory ROOT or in the config's data.root, and report on one page what is there and
    what is wrong. The exit code is 1 if something is wrong.

    If the config's data.test_root names a second data set for testing, that data set gets its own page.
    """
    settings = load_config(config, overrides)
    if root:  # a directory on the command line is checked alone
        settings = settings.with_root(root)
    pages = [(split,) for split in SPLITS] if settings.data.test_root else [SPLITS]
    reports = [check_data(settings.data, splits, read_images=not lists_only) for splits in pages]
    print("\n\n".join(report.text() for report in reports))
    return 0 if all(report.ok for report in reports) else 1
