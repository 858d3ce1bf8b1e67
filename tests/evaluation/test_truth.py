"""truth.jsonl: written names are read back as indices, and a file that does not fit is a named error."""

import json

import numpy as np
import pytest

from mindloc.descriptors.sets import DescriptorSet, make_rows
from mindloc.errors import DataError
from mindloc.evaluation.truth import load_truth, write_truth
from mindloc.vocabulary import MODES


def make_set(names, view):
    return DescriptorSet(np.ones((len(names), 2), np.float32), make_rows(names, None), {"view": view})


QUERIES, REFERENCES = make_set(["q1", "q0"], "drone"), make_set(["a", "b", "c"], "satellite")


def line(query="q0", pos=(), semi=()):
    return json.dumps({"query": query, "pos": list(pos), "pos_semipos": list(semi)})


def test_indices_follow_the_descriptor_sets(tmp_path):
    right = {"pos": [["b"], [], []], "pos_semipos": [["c", "b"], ["a"], []]}
    write_truth(tmp_path / "truth.jsonl", ["q0", "q1", "alone"], right)
    truth = load_truth(tmp_path / "truth.jsonl", QUERIES, REFERENCES)
    assert [items.tolist() for items in truth.right["pos"]] == [[], [1]]
    assert [items.tolist() for items in truth.right["pos_semipos"]] == [[0], [2, 1]]
    assert truth.query_total == 3


def test_a_name_may_contain_unicode_line_separators(tmp_path):
    odd = make_set(["a\u2028b\x85c"], "drone")
    write_truth(tmp_path / "truth.jsonl", odd.names, {mode: [["a"]] for mode in MODES})
    assert load_truth(tmp_path / "truth.jsonl", odd, REFERENCES).right["pos"][0].tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "truth.jsonl can't be read"),
        ("no json", "line 1 is not JSON: 'no json'; evaluate again"),
        ('["q0"]', "line 1 is .'q0'., expected query, pos and pos_semipos"),
        ('{"query": "q0", "pos": "a", "pos_semipos": []}', "line 1"),
        (line("q0") + "\n" + line("q0"), "line 2: query q0 appears twice"),
        (line("q0"), "has no line for query q1"),
        (line("q0", ["x"], ["x"]) + "\n" + line("q1"), "query q0: there is no descriptor of reference x"),
        (line("q2", ["a"], ["a"]), "names query q2, which has correct references but no descriptor"),
    ],
)
def test_a_truth_that_does_not_fit_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "truth.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        load_truth(tmp_path / "truth.jsonl", QUERIES, REFERENCES)
