"""Memory is used again when nobody reads it, and never before."""

import mindspore.dataset as ds
import numpy as np

from mindloc.data.batch_arrays import BatchArrays


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


def test_mindspore_holds_what_it_reads():
    """Steps that are kept hold their own numbers, whether MindSpore copies arrays or hands them on."""
    arrays = BatchArrays((64, 64))

    def numbered():
        for number in range(12):
            array = arrays.take()
            array.fill(number)
            yield (array,)
            del array

    for output_numpy in (False, True):
        rows = ds.GeneratorDataset(numbered, ["number"], shuffle=False, num_parallel_workers=1)
        kept = [row for (row,) in rows.create_tuple_iterator(num_epochs=1, output_numpy=output_numpy)]
        found = [row if output_numpy else row.asnumpy() for row in kept]
        assert [(row.min(), row.max()) for row in found] == [(number, number) for number in range(12)]
