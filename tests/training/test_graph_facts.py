"""Which settings tell one graph from another."""

import pytest

from mindloc.config import load_config
from mindloc.runtime.cluster import ALONE, Cluster
from mindloc.training.build import graph_facts


def facts(*overrides: str, cluster: Cluster = ALONE) -> dict:
    return graph_facts(load_config(None, list(overrides)), cluster)


@pytest.mark.parametrize(
    "override",
    ["loss.k=1.0", "model.backbone=tiny", "optimizer.freeze=[backbone]", "optimizer.betas=[0.9, 0.98]"]
    + ["optimizer.clip=norm", "train.accumulate=2", "train.recompute=true", "train.precision=fp16"],
)
def test_what_the_graph_holds_is_in_the_key(override):
    assert facts(override) != facts()


@pytest.mark.parametrize(
    "override",
    ["optimizer.lr=1e-3", "train.epochs=9", "data.root=elsewhere", "run.name=x", "schedule.name=constant"]
    + ["eval.batch_size=8", "train.log_every_steps=1", "augment.flip_p=0.1", "model.mean=[0.1, 0.2, 0.3]"]
    + ["train.seed=7", "sampling.mode=random", "sampling.hard_negatives=map"],
)
def test_what_the_graph_does_not_hold_is_not_in_the_key(override):
    assert facts(override) == facts()


def test_each_rank_has_graphs_of_its_own():
    assert len({str(facts(cluster=Cluster(rank, size))) for rank, size in ((0, 1), (0, 2), (1, 2))}) == 3
