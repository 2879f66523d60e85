"""Weight files as PyTorch, safetensors and Python 2 write them, written without these programs."""

import contextlib
import io
import json
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict

import numpy as np

TORCH_CLASS = {
    "f4": "FloatStorage", "f8": "DoubleStorage", "f2": "HalfStorage", "i8": "LongStorage", "bf16": "BFloat16Storage",
}  # fmt: skip


class _Storage:
    def __init__(self, key, code, raw, count, view=None):
        self.key, self.code, self.raw, self.count, self.view = key, code, raw, count, view


class _Tensor:
    """Pickles as PyTorch's tensors do: a call of torch._utils._rebuild_tensor_v2."""

    def __init__(self, storage, offset, shape, strides):
        self.args = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.args


class _Parameter:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_parameter, (self.tensor, True, OrderedDict())


@contextlib.contextmanager
def _torch():
    """Modules with the names that a pickle of PyTorch refers to, while one is written."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    for name in TORCH_CLASS.values():
        setattr(modules["torch"], name, type(name, (), {"__module__": "torch"}))
    for name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__module__, function.__qualname__ = "torch._utils", name
        setattr(modules["torch._utils"], name, function)
    assert not modules.keys() & sys.modules.keys()
    sys.modules.update(modules)
    try:
        yield modules["torch"]
    finally:
        for name in modules:
            del sys.modules[name]


def bfloat16(x):
    """float32 -> the upper halves, as uint16."""
    return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16)


def tensor(key, x, code="f4", *, offset=0, transposed=False, view=None, shape=None, parameter=False):
    """A tensor of PyTorch in its own storage.

    Args:
      offset: numbers in the storage before the tensor.
      transposed: the storage holds x.T, so that the strides are not those of a contiguous tensor.
      view: where in the storage the storage's view starts (old files).
      shape: what the file says instead of x.shape.
    """
    inside = np.asarray(x).T if transposed else np.asarray(x)
    flat = np.concatenate([np.zeros(offset, inside.dtype), inside.ravel()])
    raw = bfloat16(flat).tobytes() if code == "bf16" else flat.astype("<" + code).tobytes()
    strides = [1]
    for n in (shape or inside.shape)[:0:-1]:
        strides.insert(0, strides[0] * n)
    strides = () if inside.ndim == 0 else tuple(strides[::-1] if transposed else strides)
    start = 0 if view is not None else offset
    made = _Tensor(_Storage(key, code, raw, len(flat), view), start, tuple(shape or np.shape(x)), strides)
    return _Parameter(made) if parameter else made


def _pickler(file, torch, storages, *, old):
    def persistent_id(value):
        if not isinstance(value, _Storage):
            return None
        storages[value.key] = value
        pid = ("storage", getattr(torch, TORCH_CLASS[value.code]), value.key, "cpu", value.count)
        view = None if value.view is None else (value.key + "v", value.view, value.count - value.view)
        return (*pid, view) if old else pid

    pickler = type("Pickler", (pickle.Pickler,), {"persistent_id": lambda self, value: persistent_id(value)})
    return pickler(file, protocol=2)


def torch_zip(tree, *, byteorder="little", folder="archive"):
    """The bytes of a file of PyTorch since 1.6."""
    out, inner, storages = io.BytesIO(), io.BytesIO(), {}
    with _torch() as torch:
        _pickler(inner, torch, storages, old=False).dump(tree)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{folder}/data.pkl", inner.getvalue())
        archive.writestr(f"{folder}/byteorder", byteorder)
        for key, storage in storages.items():
            archive.writestr(f"{folder}/data/{key}", storage.raw)
        archive.writestr(f"{folder}/version", "3\n")
    return out.getvalue()


def torch_legacy(tree, *, little=True):
    """The bytes of a file of PyTorch before 1.6."""
    out, storages = io.BytesIO(), {}
    for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}):
        pickle.dump(part, out, protocol=2)
    with _torch() as torch:
        _pickler(out, torch, storages, old=True).dump(tree)
    keys = sorted(storages)
    pickle.dump(keys, out, protocol=2)
    for key in keys:
        out.write(struct.pack("<q", storages[key].count) + storages[key].raw)
    return out.getvalue()


def safetensors(entries, metadata=None):
    """The bytes of a file; entries: name -> (dtype, shape, raw)."""
    header, offset = {"__metadata__": metadata or {"format": "pt"}}, 0
    for name, (dtype, shape, raw) in entries.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(raw for *_, raw in entries.values())


def python2_pickle(state):
    """A dict of float32 arrays as Python 2 and numpy 1 wrote it: arrays keep their bytes in a str."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    out = [b"\x80\x02}("]
    for name, x in state.items():
        out += [text(name.encode()), b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"]
        shape = b"(" + b"".join(b"J" + struct.pack("<i", n) for n in x.shape) + b"t"
        dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        out += [b"(K\x01", shape, dtype, b"\x89", text(np.ascontiguousarray(x, "<f4").tobytes()), b"tb"]
    return b"".join(out) + b"u."
