"""Pickles of strangers: tensors and arrays come out, nothing is called, no view reaches beyond its bytes."""

import argparse
import io
import os
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest

from maskdiff_jax.pretrained import safe_unpickle
from maskdiff_jax.pretrained.safe_unpickle import Refused, Storage, Tensor
from tests.pretrained import third_party_files as written


def load(data):
    return safe_unpickle.load(io.BytesIO(data))[0]


def array(value):
    return safe_unpickle.to_array(value, lambda storage: b"")


# --------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "i8", "u1", "bool"])
def test_arrays_of_every_protocol_and_dtype(protocol, dtype):
    x = np.arange(12).reshape(3, 4).astype(dtype)
    for value in (x, np.asfortranarray(x), x[0, 0:0]):
        got = array(load(pickle.dumps({"x": value}, protocol))["x"])
        assert got.dtype == x.dtype.newbyteorder("=")
        np.testing.assert_array_equal(got, value)


def test_arrays_of_python_2():
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    np.testing.assert_array_equal(array(load(written.python2_pickle(state))["w"]), state["w"])


def test_plain_containers():
    tree = {
        "list": [1, (2.5, None, True)],
        "ordered": OrderedDict(a="b"),
        "set": {3},
        "bytes": b"x",
        "np": np.float64(2),
    }
    got = load(pickle.dumps(tree, 2))
    assert got == tree and isinstance(got["np"], float)
    assert load(pickle.dumps(Counter({30: 1}))) == {30: 1}


def test_leaves_that_are_no_tensors_have_no_array():
    assert array(3) is None and array({"a": 1}) is None and array("text") is None


# ------------------------------------------------------------------------------------------ what is refused


class Evil:
    def __init__(self, call, *args):
        self.call = (call, args)

    def __reduce__(self):
        return self.call


def test_nothing_is_called(tmp_path):
    mark = tmp_path / "called"
    evil = [
        Evil(os.system, f"touch {mark}"), Evil(eval, f"open({str(mark)!r}, 'w')"), Evil(os.mkdir, str(mark)),
        Evil(getattr, "a", "upper"),
    ]  # fmt: skip
    for x in evil:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(Refused, match=r"^\w+\.\w+$"):
                load(pickle.dumps([x], protocol))
        assert not mark.exists()


@pytest.mark.parametrize(
    "data, word",
    [
        (b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.", "collections.OrderedDict.fromkeys"),
        (b"\x80\x02ccopyreg\n__newobj__\n.", "copyreg.__newobj__"),
        (pickle.dumps(argparse.Namespace()), "argparse.Namespace"),
        (b"\x80\x02U\x06moduleQ.", "a reference to module"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00rot\x86R.", "bytes as 'rot'"),
    ],
)
def test_other_names_are_refused(data, word):
    with pytest.raises(Refused) as error:
        load(data)
    assert str(error.value) == word


@pytest.mark.parametrize(
    "value, dtype", [(np.array([{}], object), "O8"), (np.array(["a"]), "U1"), (np.zeros(1, "M8[s]"), "M8")]
)
def test_other_dtypes_are_refused(value, dtype):
    with pytest.raises(Refused, match=f"a numpy array of dtype '{dtype}'"):
        load(pickle.dumps(value))


def test_an_array_with_too_few_bytes():
    data = pickle.dumps(np.zeros(300, "f4"), 2)
    assert data.count(b"M\x2c\x01") == 1  # the number 300, in the shape
    with pytest.raises(ValueError, match="reshape"):
        load(data.replace(b"M\x2c\x01", b"M\x2d\x01"))


# ------------------------------------------------------------------------------------------------- views

NUMBERS = np.arange(10, dtype="<f4")
STORAGE = Storage("f4", "0", 10)


def view(offset, shape, strides, storage=STORAGE, numbers=NUMBERS):
    return safe_unpickle.to_array(Tensor(storage, offset, shape, strides), lambda s: numbers.tobytes())


def test_views_of_a_storage():
    np.testing.assert_array_equal(view(2, (2, 3), (3, 1)), [[2, 3, 4], [5, 6, 7]])
    np.testing.assert_array_equal(view(2, (3, 2), (1, 3)), [[2, 5], [3, 6], [4, 7]])  # transposed
    np.testing.assert_array_equal(view(9, (), ()), 9)
    np.testing.assert_array_equal(view(1, (2, 2), (0, 4)), [[1, 5], [1, 5]])  # expanded
    assert view(0, (0, 3), (3, 1)).shape == (0, 3)
    got = view(0, (10,), (1,))
    got[0] = 5  # a copy: the file's bytes are read-only
    assert got.flags.writeable


def test_bfloat16_is_the_upper_half_of_float32():
    x = np.array([1.0, -2.5, 3.140625, 0.0, np.inf], np.float32)
    got = view(1, (4,), (1,), Storage("bf16", "0", 5), written.bfloat16(x))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, x[1:])


@pytest.mark.parametrize(
    "offset, shape, strides",
    [(0, (11,), (1,)), (5, (6,), (1,)), (0, (2, 3), (8, 1)), (0, (-1,), (1,)), (0, (2,), (-1,)), (-1, (2,), (1,)),
     (0, (1 << 40,), (1,)), (0, (1 << 40,), (0,))],
)  # fmt: skip
def test_a_view_beyond_its_storage_is_an_error(offset, shape, strides):
    with pytest.raises(ValueError, match="storage of 10"):
        view(offset, shape, strides)
