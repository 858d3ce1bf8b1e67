"""What computing in 8 bits does to the descriptors, said before they are relied on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mindloc.config.schema import Config
from mindloc.inference.build import EngineWish, sample_batches
from mindloc.inference.engine import Engine
from mindloc.inference.open_exported import compare_with_fp32


def say_agreement(wish: EngineWish, engine: Engine, config: Config, paths: Mapping[str, Sequence[Path]]) -> None:
    """Print how far an int8 engine agrees with fp32 on a few pictures of each view; of other engines nothing."""
    if wish.precision == "int8":
        agreement = compare_with_fp32(engine, sample_batches(config, paths, engine.batch_size))
        print(f"agreement of int8 with fp32: {agreement}")
