"""From a config to a split and its sampler."""

from typing import Literal

from mindloc.config import Config
from mindloc.data import gta_uav, visloc
from mindloc.data.exclusion import OverlapGraph
from mindloc.data.pairs import Split
from mindloc.data.sampler import SAMPLERS, Sampler


def build_split(config: Config, split: Literal["train", "test"], json_only: bool = False) -> Split:
    """The training or test split that ``config.data`` names.

    Raises:
        DataError: the first thing that is wrong with it.
    """
    data = config.data
    root, pairs, map_px, m_per_px, ratio = data.root, data.train_pairs, data.map_px, data.m_per_px, data.train_ratio
    if split == "test":
        root, pairs, ratio = data.test_root or data.root, data.test_pairs, 1.0
        map_px = data.test_map_px or data.map_px
        m_per_px = data.test_m_per_px or data.m_per_px
    if data.reader == "visloc":
        return visloc.read_split(root, pairs, train_ratio=ratio, json_only=json_only)
    return gta_uav.read_split(root, pairs, map_px, m_per_px, train_ratio=ratio, json_only=json_only)


def build_sampler(config: Config, split: Split) -> Sampler:
    """The sampler of ``config.sampling`` over the pairs of the training mode.

    Overlaps are those of pos_semipos whatever the mode is, see data/sampler.py.

    Raises:
        DataError: no pair in the training mode.
    """
    pair_P2, _ = split.pair_list(config.data.train_mode)
    graph = OverlapGraph(split.semipositive, len(split.satellite_files))
    return SAMPLERS[config.sampling.mode](pair_P2, graph, config.train.batch_size, config.train.seed)
