"""Reads pickles without trusting them: only tensors, numpy arrays and plain containers are accepted.

A pickle is a program that names what it wants to call. Here every name is looked up in `_KNOWN`, whose entries are
functions of this module; an unknown name stops the reading before anything is called. Arrays are rebuilt here
from their bytes, with every size checked, since numpy's own reconstruction trusts what the file says.

A tensor of PyTorch is a view of a storage, whose bytes lie elsewhere in the file: see `Tensor`. The functions that
PyTorch's pickles call are in torch/_utils.py and torch/serialization.py, numpy's in numpy/_core/multiarray.py.
"""

import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

# PyTorch's storage classes and numpy's codes; "bf16" is the upper half of a float32
_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bf16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "b1",
}  # fmt: skip
_CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


class Refused(Exception):
    """The pickle contains something other than tensors and plain containers; the message is its name."""


class Storage(NamedTuple):
    """A sequence of numbers somewhere in the file."""

    code: str  # numpy's, or "bf16"
    key: str  # its name in the file
    count: int  # of numbers


class Tensor(NamedTuple):
    """A strided view of a storage."""

    storage: Storage
    offset: int  # numbers, from the storage's start
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # numbers


class Array:
    """A numpy array while it is unpickled; ``value`` is set once its state was read."""

    value: np.ndarray

    def __setstate__(self, state: tuple) -> None:
        """``state`` ends with shape, dtype, whether the order is Fortran's, bytes."""
        shape, dtype, fortran, data = state[-4:]
        self.value = _from_bytes(data, dtype, shape, "F" if fortran else "C")


class _Dtype:
    def __init__(self, code: str):
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype:
        if self.code not in _CODES:
            raise Refused(f"a numpy array of dtype '{self.code}'")
        return np.dtype(self.order + self.code)


def load(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Reads one pickle from the current position of the file.

    Returns:
      What it holds, with `Tensor` and `Array` in place of tensors and arrays; and the storages it refers to, by key.

    Raises:
      Refused: it names anything other than tensors, arrays and plain containers.
      Exception: of many kinds, if the pickle is damaged.
    """
    reader = _Unpickler(file)
    return reader.load(), reader.storages


def to_array(value: Any, read: Callable[[Storage], bytes]) -> np.ndarray | None:
    """The numbers of a `Tensor` or an `Array`; None for anything else.

    Args:
      value: a leaf of what `load` returned.
      read: returns the bytes of a storage, little-endian.

    Raises:
      ValueError: a tensor reaches beyond its storage, or is larger than it.
    """
    if isinstance(value, Array):
        return value.value
    if not isinstance(value, Tensor):
        return None
    code = value.storage.code
    flat = np.frombuffer(read(value.storage), "<u2" if code == "bf16" else f"<{code}")
    count = math.prod(value.shape)
    last = value.offset + sum((n - 1) * s for n, s in zip(value.shape, value.strides, strict=True))
    if min((*value.shape, *value.strides, value.offset), default=0) < 0 or count > len(flat):
        raise ValueError(f"a tensor of shape {value.shape} in a storage of {len(flat)} numbers")
    if count and last >= len(flat):
        raise ValueError(f"a tensor reaches number {last} of a storage of {len(flat)}")
    if not count:
        return np.zeros(value.shape, np.float32)
    bytes_ = [s * flat.itemsize for s in value.strides]
    view = np.lib.stride_tricks.as_strided(flat[value.offset :], value.shape, bytes_, writeable=False)
    return from_bfloat16(view) if code == "bf16" else view.copy()


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """uint16 bits -> float32."""
    return np.left_shift(bits, 16, dtype=np.uint32, out=np.empty(bits.shape, np.uint32)).view(np.float32)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="latin1")  # in pickles of Python 2 the bytes of arrays are str
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise Refused(f"{module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """("storage", class, key, device, count[, view of (key, first, count)]) -> Storage, or its view."""
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            raise Refused(f"a reference to {str(pid)[:60]}")
        _, code, key, _, count, *view = pid
        whole = self.storages.setdefault(str(key), Storage(code, str(key), int(count)))
        return whole if not view or view[0] is None else _View(whole, int(view[0][1]))


class _View(NamedTuple):
    """A storage that starts inside another one, in files of early PyTorch."""

    storage: Storage
    first: int


def _tensor(storage: Any, offset: int, shape: tuple, strides: tuple, *_: Any) -> Tensor:
    if isinstance(storage, _View):
        storage, offset = storage.storage, storage.first + offset
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _bytes(data: Any) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _from_bytes(data: Any, dtype: _Dtype, shape: Any, order: str) -> np.ndarray:
    """The array of a dtype and a shape that bytes hold. Raises ValueError if there are not as many bytes."""
    kind = dtype.numpy()
    flat = np.frombuffer(_bytes(data), kind)
    return flat.reshape(tuple(map(int, shape)), order="F" if order == "F" else "C").astype(kind.newbyteorder("="))


def _from_buffer(data: Any, dtype: _Dtype, shape: Any, order: str) -> Array:
    """An array as protocol 5 writes it."""
    array = Array()
    array.value = _from_bytes(data, dtype, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Bytes as protocols before 3 write them."""
    if encoding != "latin1":
        raise Refused(f"bytes as '{encoding}'")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): dict,  # in the state of some schedulers
    ("_codecs", "encode"): _encode,
    **{(module, "set"): set for module in ("__builtin__", "builtins")},
    **{(module, "bytes"): lambda: b"" for module in ("__builtin__", "builtins")},  # an empty array before protocol 3
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
    ("torch", "Size"): tuple,
    ("torch", "device"): lambda *names: ":".join(map(str, names)),
    **{("torch", name): code for name, code in _STORAGES.items()},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): lambda code, *_: _Dtype(str(code)),
}
for _module in ("numpy.core.", "numpy._core."):  # before and since numpy 2
    _KNOWN |= {
        (_module + "multiarray", "_reconstruct"): lambda *_: Array(),
        (_module + "multiarray", "scalar"): lambda dtype, data: _from_bytes(data, dtype, (), "C").item(),
        (_module + "numeric", "_frombuffer"): _from_buffer,
    }
