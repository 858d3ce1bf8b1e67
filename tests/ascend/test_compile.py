"""Compile tests for Ascend, no more: the graphs are accepted in simulation. No number is computed.

Level 0 is MindSpore's front end (types, shapes, gradients); level 1 also asks for a kernel of every operator and plans
memory, as far as MindSpore itself knows its kernels. What CANN lacks, and speed, show on the hardware alone.
"""

import pytest

BLOCKS = 2  # of graphs.py
FIRST_910 = "Ascend910A"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def front_end(compile_graphs):
    return compile_graphs(0, "train:fp16:O0", "train:fp16:O2", "extract:fp16:O0", "extract:fp16:O2")


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_front_end_accepts_the_training_step_with_fused_attention(front_end, level):
    graph = front_end.graphs[f"train:fp16:{level}"]
    operators = graph["operators"]
    assert operators["FlashAttentionScore"] == operators["FlashAttentionScoreGrad"] == BLOCKS
    assert operators["Adam"] == graph["weights"]
    assert "BatchMatMul" not in operators


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_front_end_accepts_extraction_with_fused_attention(front_end, level):
    operators = front_end.graphs[f"extract:fp16:{level}"]["operators"]
    assert operators["FlashAttentionScore"] == BLOCKS
    assert "FlashAttentionScoreGrad" not in operators and "Adam" not in operators


def test_kernels_are_found_for_a_plain_vit(compile_graphs):
    graphs = compile_graphs(1, "train.plain:fp16:O0", "extract.plain:fp16:O0").graphs
    operators = graphs["train.plain:fp16:O0"]["operators"]
    assert operators["FlashAttentionScore"] == operators["FlashAttentionScoreGrad"] == BLOCKS
    assert operators["Adam"] == graphs["train.plain:fp16:O0"]["weights"] and "BatchMatMul" not in operators


def test_kernels_are_found_and_memory_is_planned(compile_graphs):
    compilation = compile_graphs(1, "train:fp16:O0", "extract:fp16:O0", "train:bf16:O0")
    assert len(compilation.graphs) == 3
    assert compilation.graphs["train:bf16:O0"]["operators"]["FlashAttentionScoreGrad"] == BLOCKS
    assert compilation.peak_mb > 0


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_front_end_accepts_two_stages(compile_graphs, level):
    """The one non-local block has all products of matrices; CSMG takes two more, for its nodes and where they lie."""
    names = [f"{what}:fp16:{level}" for what in ("train.cosine", "train.infonce", "extract.stages")]
    graphs = compile_graphs(0, *names).graphs
    for name in names[:2]:
        operators = graphs[name]["operators"]
        assert operators["FlashAttentionScoreGrad"] == BLOCKS and operators["Adam"] == graphs[name]["weights"]
    operators = graphs[names[2]]["operators"]
    assert operators["FlashAttentionScore"] == BLOCKS and operators["BatchMatMul"] == 4
    assert "Adam" not in operators


def test_kernels_are_found_for_two_stages(compile_graphs):
    names = ("train.cosine:fp16:O0", "train.infonce:fp16:O0", "extract.stages:fp16:O0")
    compilation = compile_graphs(1, *names)
    assert set(compilation.graphs) == set(names) and compilation.peak_mb > 0


def test_a_graph_holds_one_part_however_many_there_are(compile_graphs):
    """Four parts, which take turns in a loop; with shared negatives each is encoded once more. Front end alone."""
    names = ("train.parts:fp16:O0", "train.cached:fp16:O0")
    graphs = compile_graphs(0, *names).graphs
    for name, passes in zip(names, (1, 2), strict=True):
        operators = graphs[name]["operators"]
        assert operators["FlashAttentionScore"] == passes * BLOCKS
        assert operators["FlashAttentionScoreGrad"] == BLOCKS and operators["Adam"] == graphs[name]["weights"]


def test_one_rank_of_eight_gathers_the_cached_descriptors_once(compile_graphs):
    name = "train.cached:fp16:O2"
    graph = compile_graphs(0, name, RANK_ID="3", RANK_SIZE="8").graphs[name]
    assert graph["operators"]["AllGather"] == 2  # one for each view
    assert graph["operators"]["AllReduce"] == graph["weights"] + 2  # one for each weight, one back through each gather


def test_the_first_910_gets_attention_in_three_operators(compile_graphs):
    compilation = compile_graphs(1, "train:fp16:O0", SIMULATED_CHIP=FIRST_910)
    operators = compilation.graphs["train:fp16:O0"]["operators"]
    assert "FlashAttentionScore" not in operators
    assert operators["BatchMatMul"] == 2 * BLOCKS * 3  # score and mix, and two products for the gradient of each


def test_one_rank_of_eight_gathers_both_descriptors(compile_graphs):
    name = "train.cosine:fp16:O2"
    graph = compile_graphs(0, name, RANK_ID="3", RANK_SIZE="8").graphs[name]
    assert graph["operators"]["AllGather"] == 4  # Omega and Phi, one for each view


@pytest.mark.parametrize(("level", "jit_level"), [(0, "O2"), (1, "O0")])
def test_one_rank_of_eight_gathers_descriptors_and_averages_gradients(compile_graphs, level, jit_level):
    name = f"train:fp16:{jit_level}"
    graph = compile_graphs(level, name, RANK_ID="3", RANK_SIZE="8").graphs[name]
    assert graph["rank"] == 3
    assert graph["operators"]["AllGather"] == 2  # one for each view
    assert graph["operators"]["AllReduce"] == graph["weights"] + 2  # one for each weight, one back through each gather
