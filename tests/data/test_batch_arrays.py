"""Memory is used again when nobody reads it, and never before."""

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import nn, ops

from mindloc.data import loader as batch_arrays
from mindloc.data.loader import BatchArrays


def test_an_array_that_nobody_holds_is_used_again():
    arrays = BatchArrays((2, 3))
    first = arrays.take()
    assert first.shape == (2, 3) and first.dtype == np.float32
    place = first.ctypes.data
    del first
    assert arrays.take().ctypes.data == place
    assert len(arrays) == 1


def test_an_array_that_is_held_is_left_alone():
    arrays = BatchArrays((2,))
    held = [arrays.take() for _ in range(3)]
    assert len({array.ctypes.data for array in held}) == len(arrays) == 3


def test_a_part_of_an_array_holds_the_whole():
    arrays = BatchArrays((4, 2))
    first = arrays.take()
    part = first[1:2]
    place = first.ctypes.data
    del first
    assert arrays.take().ctypes.data != place
    del part
    assert arrays.take().ctypes.data == place


def test_without_reuse_every_array_is_fresh_and_none_is_kept():
    arrays = BatchArrays((2,), reuse=False)
    held = [arrays.take() for _ in range(3)]
    assert len({array.ctypes.data for array in held}) == 3 and len(arrays) == 0


def test_the_count_of_references_is_measured_not_assumed():
    """One more holder is one more reference, whatever the interpreter counts for the asking."""
    kept = [np.empty(1, np.float32)]
    assert batch_arrays._references(kept, 0) == batch_arrays._HELD_BY_ITS_LIST_ALONE
    also = kept[0]
    assert batch_arrays._references(kept, 0) == batch_arrays._HELD_BY_ITS_LIST_ALONE + 1
    del also


def numbered_rows(count: int = 12) -> ds.GeneratorDataset:
    """Rows full of their own number, in memory that is used again."""
    arrays = BatchArrays((64, 64))

    def numbered():
        for number in range(count):
            array = arrays.take()
            array.fill(number)
            yield (array,)
            del array

    return ds.GeneratorDataset(numbered, ["number"], shuffle=False, num_parallel_workers=1)


@pytest.mark.parametrize("output_numpy", [False, True])
def test_mindspore_holds_what_it_reads(output_numpy):
    """Steps that are kept hold their own numbers, whether MindSpore copies arrays or hands them on."""
    kept = [row for (row,) in numbered_rows().create_tuple_iterator(num_epochs=1, output_numpy=output_numpy)]
    found = [row if output_numpy else row.asnumpy() for row in kept]
    assert [(row.min(), row.max()) for row in found] == [(number, number) for number in range(12)]


def test_a_step_of_the_device_reads_what_was_handed_to_it():
    """The step is not waited for, as in training; only where this holds may arrays be used again (data/readers.py)."""

    class Product(nn.Cell):  # long enough that the next rows are under way before it is done
        def construct(self, row):
            return ops.matmul(row, ops.ones_like(row))

    ms.set_context(mode=ms.GRAPH_MODE)
    step = Product()
    made = [step(row) for (row,) in numbered_rows(40).create_tuple_iterator(num_epochs=1)]
    for number, product in enumerate(made):
        np.testing.assert_array_equal(product.asnumpy(), 64 * number)  # 64 equal terms
