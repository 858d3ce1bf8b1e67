"""The memory of a batch is reused when it has no other references, and never before."""

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import nn, ops

from mindloc.data import loader as batch_arrays
from mindloc.data.loader import BatchArrays


def test_an_array_without_references_is_reused():
    arrays = BatchArrays((2, 3))
    first = arrays.take()
    assert first.shape == (2, 3) and first.dtype == np.float32
    place = first.ctypes.data
    del first
    assert arrays.take().ctypes.data == place
    assert len(arrays) == 1


def test_an_array_with_a_reference_is_not_reused():
    arrays = BatchArrays((2,))
    kept = [arrays.take() for _ in range(3)]
    assert len({array.ctypes.data for array in kept}) == len(arrays) == 3


def test_a_view_of_an_array_prevents_its_reuse():
    arrays = BatchArrays((4, 2))
    first = arrays.take()
    part = first[1:2]
    place = first.ctypes.data
    del first
    assert arrays.take().ctypes.data != place
    del part
    assert arrays.take().ctypes.data == place


def test_without_reuse_every_array_is_new_and_none_is_kept():
    arrays = BatchArrays((2,), reuse=False)
    kept = [arrays.take() for _ in range(3)]
    assert len({array.ctypes.data for array in kept}) == 3 and len(arrays) == 0


def test_the_reference_count_of_an_unused_array_is_measured():
    """One more holder adds one reference; how many references the counting itself adds depends on the interpreter."""
    kept = [np.empty(1, np.float32)]
    assert batch_arrays._references(kept, 0) == batch_arrays._ONLY_IN_THE_LIST
    also = kept[0]
    assert batch_arrays._references(kept, 0) == batch_arrays._ONLY_IN_THE_LIST + 1
    del also


def numbered_rows(count: int = 12) -> ds.GeneratorDataset:
    """Yield arrays filled with their own number, in reused memory."""
    arrays = BatchArrays((64, 64))

    def numbered():
        for number in range(count):
            array = arrays.take()
            array.fill(number)
            yield (array,)
            del array

    return ds.GeneratorDataset(numbered, ["number"], shuffle=False, num_parallel_workers=1)


@pytest.mark.parametrize("output_numpy", [False, True])
def test_mindspore_references_what_it_reads(output_numpy):
    """Batches that are kept contain their own numbers, whether MindSpore copies arrays or passes them on."""
    kept = [row for (row,) in numbered_rows().create_tuple_iterator(num_epochs=1, output_numpy=output_numpy)]
    found = [row if output_numpy else row.asnumpy() for row in kept]
    assert [(row.min(), row.max()) for row in found] == [(number, number) for number in range(12)]


def test_a_step_of_the_device_reads_its_own_batch():
    """As in training, the test does not wait for the step; arrays may be reused only if it passes (data/loader.py)."""

    class Product(nn.Cell):  # takes long enough that the next rows are written meanwhile
        def construct(self, row):
            return ops.matmul(row, ops.ones_like(row))

    ms.set_context(mode=ms.GRAPH_MODE)
    step = Product()
    made = [step(row) for (row,) in numbered_rows(40).create_tuple_iterator(num_epochs=1)]
    for number, product in enumerate(made):
        np.testing.assert_array_equal(product.asnumpy(), 64 * number)  # 64 equal terms
