"""mindloc as a library: load an encoder, encode images, extract, build and search an index, evaluate, train.

These are the public names, re-exported as ``mindloc.NAME``; everything else is private by convention. Nothing here
imports MindSpore before an encoder is loaded or a training starts. What the command line prints goes to the logger
``mindloc`` here.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mindloc.config import Config, dump_yaml, load_config, override_config
from mindloc.data.images import ImageLike, image_names
from mindloc.data.loader import ImageBatches
from mindloc.data.readers import read_ground, read_split
from mindloc.data.split import Split
from mindloc.descriptors.ranking import unit_rows
from mindloc.errors import ConfigError, DataError, MindlocError, SplitAbsentError
from mindloc.inference.build import EngineRequest, Source, card_facts, read_source, start_engine
from mindloc.inference.engine import Engine
from mindloc.runtime.checkpoint import resolve_checkpoint
from mindloc.runtime.run_directory import RunDirectory
from mindloc.vocabulary import CENTROIDS, SIDES, SideName

__all__ = [
    "Config",
    "Encoder",
    "Index",
    "MindlocError",
    "build_index",
    "evaluate",
    "extract",
    "load",
    "load_config",
    "open_index",
    "score",
    "train",
]

Path_ = str | os.PathLike[str]
log = logging.getLogger("mindloc")
