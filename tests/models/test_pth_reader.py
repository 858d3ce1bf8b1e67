"""PyTorch files: those that PyTorch wrote are read, and hostile ones can't run anything."""

import copyreg
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mindloc.errors import CheckpointError
from mindloc.models.pth_reader import LEGACY_MAGIC, Refused, read_state_dict, run_pickle

FIXTURES = Path(__file__).parent / "fixtures"
BASE = np.arange(24, dtype=np.float32)  # see fixtures/make_pth.py
EXPECTED = {
    "float": BASE.reshape(2, 3, 4),
    "transposed": BASE.reshape(4, 6).T,
    "part": BASE.reshape(4, 6)[1:3, 2:5],
    "double": np.linspace(0, 1, 5),
    "half": np.array([0.5, -2.0, 65504.0], np.float16),
    "bfloat16": np.array([1.0, -3.140625, 1e30], np.float32),
    "long": np.array([-1, 2**40]),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": np.ones((2, 2), np.float32),
}


@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth", "nested.pth"])
def test_every_layout_and_number_type(file):
    arrays = read_state_dict(FIXTURES / file)
    assert arrays.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        rtol = 2**-8 if name == "bfloat16" else 0  # bfloat16 has 8 bits of mantissa
        assert arrays[name].dtype == expected.dtype and arrays[name].shape == expected.shape, name
        np.testing.assert_allclose(arrays[name], expected, rtol=rtol, atol=1e-15, err_msg=name)


def test_state_dict_of_a_module():  # the dict has version notes as attributes
    arrays = read_state_dict(FIXTURES / "module.pth")
    assert {name: array.shape for name, array in arrays.items()} == {"weight": (2, 2), "bias": (2,)}


# Hostile files. The names below are resolved by Python's pickle while WRITING the file, through stand-ins. ----------


class Call:
    """An object that is pickled as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class StorageReference:
    def __init__(self, *parts):
        self.parts = parts


class TorchName:
    """Stands in for a name of a module that is not installed."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__, self.module, self.name = module, name, module, name


class Writer(pickle._Pickler):
    """Python's own pickler, extended to write PyTorch's storages and names."""

    def persistent_id(self, item):
        return item.parts if isinstance(item, StorageReference) else None

    def save(self, item, *args, **kwargs):
        if isinstance(item, TorchName):
            self.write(b"c" + item.module.encode() + b"\n" + item.name.encode() + b"\n")
        else:
            super().save(item, *args, **kwargs)

    def save_tensor(self, call):
        self.save(call.function)
        self.save(call.arguments)
        self.write(b"R")


class Tensor:
    """A tensor as PyTorch writes it, with any shape, stride, offset and storage."""

    def __init__(self, offset=0, shape=(4,), stride=(1,), kind="FloatStorage", key="0", count=4):
        self.function = TorchName("torch._utils", "_rebuild_tensor_v2")
        storage = StorageReference("storage", TorchName("torch", kind), key, "cpu", count)
        self.arguments = (storage, offset, shape, stride, False, OrderedDict())


Writer.dispatch = {**pickle._Pickler.dispatch, Tensor: Writer.save_tensor}


def pickled(item) -> bytes:
    buffer = io.BytesIO()
    Writer(buffer, 2).dump(item)
    return buffer.getvalue()


def zip_file(path, item, data=bytes(16), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", item if isinstance(item, bytes) else pickled(item))
        archive.writestr("archive/data/0", data)
    return path


FOUR_ZEROS = struct.pack("<q", 4) + bytes(16)  # a storage of an old file: its element count, its numbers


def legacy_file(path, item, tail=FOUR_ZEROS):
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    body = item if isinstance(item, bytes) else pickled(item)
    path.write_bytes(pickled(LEGACY_MAGIC) + pickled(1001) + pickled(info) + body + pickled(["0"]) + tail)
    return path


WRITERS = pytest.mark.parametrize("write", [zip_file, legacy_file])


@WRITERS
def test_stand_in_writer_makes_readable_files(tmp_path, write):
    assert read_state_dict(write(tmp_path / "a.pth", {"w": Tensor()}))["w"].tolist() == [0, 0, 0, 0]


@WRITERS
@pytest.mark.parametrize(
    "function, arguments",
    [
        (os.system, ("touch {}",)),
        (eval, ("open('{}', 'w')",)),
        (exec, ("open('{}', 'w')",)),
        (open, ("{}", "w")),
        (__import__, ("antigravity",)),
        (getattr, (os, "system")),
        (np.load, ("{}",)),
        (pickle.loads, (pickle.dumps(1),)),
        (TorchName("torch", "load"), ("{}",)),
        (TorchName("numpy.core.multiarray", "_reconstruct"), (np.ndarray, (0,), b"b")),
        (TorchName("functools", "partial"), (len,)),
    ],
)
def test_functions_named_in_the_file_never_run(tmp_path, write, function, arguments):
    trace = tmp_path / "ran"
    arguments = tuple(a.format(trace) if isinstance(a, str) else a for a in arguments)
    if function is getattr:
        payload = b"\x80\x02cbuiltins\ngetattr\ncos\npath\nX\x06\x00\x00\x00system\x86R."
    elif isinstance(function, TorchName):
        payload = b"\x80\x02c" + f"{function.module}\n{function.name}\n".encode() + b")R."
    else:
        payload = pickled({"w": Tensor(), "x": Call(function, *arguments)})
    with pytest.raises(CheckpointError, match="nothing was read or run") as error:
        read_state_dict(write(tmp_path / "evil.pth", payload))
    assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.",  # REDUCE
        b"\x80\x02(X\x02\x00\x00\x00idiposix\nsystem\n.",  # INST
        b"\x80\x02(cposix\nsystem\nX\x02\x00\x00\x00ido.",  # OBJ
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",  # NEWOBJ, of an allowed name
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",  # BUILD on a class
        b"\x80\x02ccollections\nOrderedDict\n](](K\x01K\x02ee\x85R.",  # items through a call
        b"\x80\x02ccollections\nOrderedDict.__init__\n.",  # an attribute of an allowed name
        b"\x80\x04ccollections\nOrderedDict\n)}\x92.",  # NEWOBJ_EX
        b"\x80\x02ctorch\nFloatStorage\n)R.",  # REDUCE of a name that is only compared
        b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00__call__Ns\x86b.",  # BUILD by slots on a function
        b"\x80\x02X\x01\x00\x00\x00a}b.",  # BUILD on a text
        b"\x80\x02Pposix\n.",  # PERSID
        b"\x80\x02NN0.",  # POP
        b"\x80\x02N2.",  # DUP
        b"\x80\x05\x97.",  # NEXT_BUFFER
        b"\x80\x02(N.",  # a mark that is never used
    ],
)
def test_every_instruction_that_could_call_is_refused(program):
    with pytest.raises(Refused):
        run_pickle(io.BytesIO(program))


def test_an_extension_that_some_module_registered_is_refused():
    copyreg.add_extension("posix", "system", 200)  # an extension loaded before is used without a lookup of its name
    try:
        pickle.loads(b"\x80\x02\x82\xc8.")
        with pytest.raises(Refused):
            run_pickle(io.BytesIO(b"\x80\x02\x82\xc8X\x02\x00\x00\x00id\x85R."))
    finally:
        copyreg.remove_extension("posix", "system", 200)


@WRITERS
def test_attributes_of_a_dict_change_nothing(tmp_path, write):
    """The file has a state that would replace methods of the dict."""
    hostile = pickled({"w": Tensor()})[:-1].replace(b"}", b"ccollections\nOrderedDict\n)R", 1)
    hostile += b"N}(X\x05\x00\x00\x00itemsNX\x03\x00\x00\x00getNu\x86b."
    assert read_state_dict(write(tmp_path / "a.pth", hostile))["w"].tolist() == [0, 0, 0, 0]


def test_a_memo_slot_with_a_huge_number_needs_no_memory():
    tracemalloc.start()
    assert run_pickle(io.BytesIO(b"\x80\x02}r\xff\xff\xff\x7f."))[0] == {}
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@WRITERS
@pytest.mark.parametrize(
    "tensor, message",
    [
        (Tensor(shape=(5,)), "beyond its storage"),
        (Tensor(offset=1), "beyond its storage"),
        (Tensor(offset=-1), "offset of -1"),
        (Tensor(offset=2**62, shape=(0,)), "beyond its storage"),
        (Tensor(shape=(-4,)), "size of -4"),
        (Tensor(shape=(2,), stride=(-1,)), "stride of -1"),
        (Tensor(shape=(2, 2), stride=(2**61, 1)), "beyond its storage"),
        (Tensor(shape=(2**40,), stride=(0,)), "overlaps"),
        (Tensor(shape=(3, 2), stride=(1, 1)), "overlaps"),
        (Tensor(shape=(2, 2), stride=(1,)), "2 sizes and 1 strides"),
        (Tensor(shape=(1,) * 40, stride=(1,) * 40), "40 sizes"),
        (Tensor(shape=(4.0,)), "size of float"),
        (Tensor(shape=4), "without storage, shape or stride"),
        (Tensor(count=-4), "length of -4"),
        (Tensor(kind="ComplexFloatStorage"), "ComplexFloatStorage"),
        (Tensor(kind="UntypedStorage"), "UntypedStorage"),
    ],
)
def test_impossible_tensors_are_refused(tmp_path, write, tensor, message):
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(write(tmp_path / "evil.pth", {"w": tensor}))


@WRITERS
def test_storage_that_claims_more_than_the_file_contains(tmp_path, write):
    huge = {"w": Tensor(shape=(2**50,), count=2**50)}
    with pytest.raises(CheckpointError, match="bytes instead of|numbers instead of"):
        read_state_dict(write(tmp_path / "evil.pth", huge))


def test_legacy_storage_whose_header_states_the_same_false_size(tmp_path):
    huge = {"w": Tensor(shape=(2**50,), count=2**50)}
    with pytest.raises(CheckpointError, match="16 bytes instead of"):
        read_state_dict(legacy_file(tmp_path / "evil.pth", huge, struct.pack("<q", 2**50) + bytes(16)))


def test_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path = zip_file(tmp_path / "bomb.pth", {"w": Tensor()}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_state_dict(path)


def test_nested_tuples_are_refused_at_once(tmp_path):
    # 60 doublings: printing, hashing or comparing this value would take 2^60 steps
    nest = b"\x80\x02)" + b"q\x00h\x00\x86" * 60
    for ending in (b"}h\x00K\x01s.", b"h\x00Q.", b"h\x00)R.", b"h\x00h\x00\x93."):  # as key, storage, function, name
        with pytest.raises(CheckpointError):
            read_state_dict(zip_file(tmp_path / "nest.pth", nest + ending))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80", b"\x80\x02", b"\x80\x02.", b"not a checkpoint", b"PK\x03\x04", b"\x80\x02K\x01.", b"\x80\x02q\x01."],
)
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_state_dict(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth"])
def test_a_truncated_or_garbled_file_is_a_one_line_error(tmp_path, file):
    whole = (FIXTURES / file).read_bytes()
    random = np.random.RandomState(0)
    path = tmp_path / "cut.pth"
    for end in range(0, len(whole) - 1, 37):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError):
            read_state_dict(path)
    for _ in range(300):
        garbled = bytearray(whole)
        for place in random.randint(0, len(whole), 3):
            garbled[place] = random.randint(256)
        path.write_bytes(garbled)
        try:
            read_state_dict(path)  # a flipped bit of a number is not an error; anything else is a CheckpointError
        except CheckpointError as error:
            assert "\n" not in str(error)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")  # would wait for a writer for ever
    with pytest.raises(CheckpointError, match="pipe.pth is a pipe, expected a file"):
        read_state_dict(tmp_path / "pipe.pth")


def test_missing_file_and_no_tensors(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        read_state_dict(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="has no state dict"):
        read_state_dict(zip_file(tmp_path / "a.pth", {"epoch": 1}))
