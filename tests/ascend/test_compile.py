"""Compile tests for Ascend in simulation: they check that the graphs are accepted. No number is computed.

Level 0 is MindSpore's front end (types, shapes, gradients); level 1 also selects a kernel for every operator and plans
memory, for the kernels that MindSpore itself contains. Operators that CANN lacks, and speed, can be found only on the
hardware. A process compiles several graphs, but the large two-stage graphs are compiled in their own processes, because
graphs compiled before slow a process down.
"""

import pytest

BLOCKS = 2  # as in graphs.py
FIRST_910 = "Ascend910A"
STAGES = ("train.cosine", "train.infonce", "extract.stages")
PARTS = ("train.parts:fp16:O0", "train.cached:fp16:O0")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def front_end(compile_graphs):
    graphs = [f"{what}:fp16:{level}" for level in ("O0", "O2") for what in ("train", "extract")]
    return compile_graphs(0, *graphs, *PARTS)


@pytest.fixture(scope="module")
def kernels(compile_graphs):
    graphs = ("train:fp16:O0", "extract:fp16:O0", "train:bf16:O0", "train.plain:fp16:O0", "extract.plain:fp16:O0")
    return compile_graphs(1, *graphs)


@pytest.fixture(scope="module")
def rank_of_eight(compile_graphs):
    return compile_graphs(0, "train:fp16:O2", "train.cached:fp16:O2", RANK_ID="3", RANK_SIZE="8")


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


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_front_end_accepts_two_stages(compile_graphs, level):
    """Two of the four matrix products are in the non-local block, two in CSMG (for nodes and their positions)."""
    names = [f"{what}:fp16:{level}" for what in STAGES]
    *trained, extracted = map(compile_graphs(0, *names).graphs.get, names)
    for graph in trained:
        operators = graph["operators"]
        assert operators["FlashAttentionScoreGrad"] == BLOCKS and operators["Adam"] == graph["weights"]
    operators = extracted["operators"]
    assert operators["FlashAttentionScore"] == BLOCKS and operators["BatchMatMul"] == 4
    assert "Adam" not in operators


def test_a_graph_contains_one_part_for_any_number_of_parts(front_end):
    """Four parts are computed in a loop; with shared negatives each part is encoded once more."""
    for name, passes in zip(PARTS, (1, 2), strict=True):
        operators = front_end.graphs[name]["operators"]
        assert operators["FlashAttentionScore"] == passes * BLOCKS
        assert operators["FlashAttentionScoreGrad"] == BLOCKS and operators["Adam"] == front_end.graphs[name]["weights"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_kernels_are_found_and_memory_is_planned(kernels, precision):
    operators = kernels.graphs[f"train:{precision}:O0"]["operators"]
    assert operators["FlashAttentionScoreGrad"] == BLOCKS
    assert "extract:fp16:O0" in kernels.graphs and kernels.peak_mb > 0


def test_kernels_are_found_for_a_plain_vit(kernels):
    graph = kernels.graphs["train.plain:fp16:O0"]
    operators = graph["operators"]
    assert operators["FlashAttentionScore"] == operators["FlashAttentionScoreGrad"] == BLOCKS
    assert operators["Adam"] == graph["weights"] and "BatchMatMul" not in operators
    assert kernels.graphs["extract.plain:fp16:O0"]["operators"]["FlashAttentionScore"] == BLOCKS


def test_kernels_are_found_for_two_stages(compile_graphs):
    names = [f"{what}:fp16:O0" for what in STAGES]
    compilation = compile_graphs(1, *names)
    assert set(compilation.graphs) == set(names) and compilation.peak_mb > 0


def test_the_first_910_gets_attention_in_three_operators(compile_graphs):
    compilation = compile_graphs(1, "train:fp16:O0", SIMULATED_CHIP=FIRST_910)
    operators = compilation.graphs["train:fp16:O0"]["operators"]
    assert "FlashAttentionScore" not in operators
    assert operators["BatchMatMul"] == 2 * BLOCKS * 3  # score and mix, and two products for the gradient of each


def assert_descriptors_are_gathered(graph: dict) -> None:
    """Assert that rank 3 gathers the descriptors of each view and averages the gradients."""
    assert graph["rank"] == 3
    assert graph["operators"]["AllGather"] == 2  # one for each view
    assert graph["operators"]["AllReduce"] == graph["weights"] + 2  # one for each weight, one back through each gather


def test_one_rank_of_eight_gathers_descriptors_and_averages_gradients(rank_of_eight):
    assert_descriptors_are_gathered(rank_of_eight.graphs["train:fp16:O2"])


def test_one_rank_of_eight_finds_its_kernels(compile_graphs):
    name = "train:fp16:O0"
    assert_descriptors_are_gathered(compile_graphs(1, name, RANK_ID="3", RANK_SIZE="8").graphs[name])


def test_one_rank_of_eight_gathers_the_cached_descriptors_once(rank_of_eight):
    assert_descriptors_are_gathered(rank_of_eight.graphs["train.cached:fp16:O2"])


def test_one_rank_of_eight_gathers_both_descriptors(compile_graphs):
    name = "train.cosine:fp16:O2"
    graph = compile_graphs(0, name, RANK_ID="3", RANK_SIZE="8").graphs[name]
    assert graph["operators"]["AllGather"] == 4  # Omega and Phi, of each view
