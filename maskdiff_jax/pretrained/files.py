"""Weight files of other projects: reads the named tensors and tells which kind of checkpoint it is.

Container and kind are recognized by the content, not by the file's name. Containers: zip (PyTorch since 1.6), the row
of pickles that PyTorch wrote before, plain pickles (detectron2), safetensors. PyTorch itself is not needed.
Floating-point tensors come out as float32; optimizer states and the like are not read.
"""

import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from maskdiff_jax.pretrained import architecture, safe_unpickle

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's old files (torch/serialization.py, MAGIC_NUMBER)
# keys under which checkpoints keep the model: detectron2 and TFA; Lightning and timm; Detectron
_WRAPPERS = ("model", "state_dict", "blobs")
_BIG_ENDIAN = "was written on a big-endian machine, which is not supported: save it again on a little-endian one"
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "b1",
}  # fmt: skip
_MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors format


class Checkpoint(NamedTuple):
    """A third-party checkpoint as read."""

    kind: str  # a key of KINDS
    tensors: dict[str, np.ndarray]  # by their names there; floating-point ones as float32


# kind -> (names that only such a checkpoint has, what it is)
KINDS = {
    "msra": (("conv1_w", "res2_0_branch2a_w"), "ImageNet backbone in Caffe2 names, as detectron2's MSRA/R-50.pkl"),
    "detectron2": (
        ("backbone.bottom_up.stem.conv1.weight", "proposal_generator.rpn_head.conv.weight"),
        "Faster or Mask R-CNN with FPN of detectron2 or TFA",
    ),
    "detectron2-backbone": (
        ("stem.conv1.weight", "res2.0.conv1.weight"),
        "ImageNet backbone in detectron2's names, as its torchvision/R-50.pkl",
    ),
    "resnet": (("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight"), "ResNet-50 of torchvision or timm"),
    "guided-diffusion": (("time_embed.0.weight", "input_blocks.0.0.weight"), "UNet of guided-diffusion"),
}


def read(path: str | Path) -> Checkpoint:
    """Reads a weight file and tells its kind.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file holds no weights, is damaged, holds objects other than tensors and plain containers, or is of
        an unknown kind; names the file and the fix.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}: docs/paper_recipe.md lists where to download weights")
    with path.open("rb") as file:
        entries = _open(path, file)
    if entries and all(name.startswith("module.") for name in entries):  # saved from DistributedDataParallel
        entries = {name.removeprefix("module."): value for name, value in entries.items()}
    tensors = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in entries.items()}
    return Checkpoint(_kind(path, tensors), tensors)


def _kind(path: Path, tensors: dict[str, np.ndarray]) -> str:
    found = [kind for kind, (names, _) in KINDS.items() if all(n in tensors for n in names)]
    if len(found) != 1:
        known = "; ".join(f"{kind} ({text})" for kind, (_, text) in KINDS.items())
        count = f"{len(tensors)} tensor{'' if len(tensors) == 1 else 's'}"
        first = _printable(", ".join(list(tensors)[:5]))
        if other := architecture.other_kind(tensors):
            raise ValueError(f"{path} cannot be used: {other}")
        raise ValueError(
            f"{path} holds {count} ({first} ...), which is not a known kind of checkpoint. The known kinds are {known}"
        )
    return found[0]


def _open(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    """The named tensors of a file; every fault becomes one sentence."""
    head = file.read(512)
    size = file.seek(0, 2)
    file.seek(0)
    if problem := _what_else(head):
        raise ValueError(f"{path} {problem}")
    try:
        if head.startswith(b"PK\x03\x04"):
            return _torch_zip(file)
        header_size = int.from_bytes(head[:8], "little")
        if head[8:9] == b"{" and header_size <= _MAX_HEADER:
            return _safetensors(file, header_size, size)
        return _pickles(file, size)
    except safe_unpickle.Refused as error:
        raise ValueError(
            f"{path} holds {_printable(error)}, which is neither a tensor nor a plain container, so the file is "
            "not read: save only the model's state_dict, with the program that wrote the file"
        ) from error
    except _Problem as error:
        raise ValueError(f"{path} {_printable(error)}") from error
    except Exception as error:  # damaged pickles and archives raise many kinds
        if not head.startswith((b"PK\x03\x04", b"\x80", b"(", b"}")) and head[8:9] != b"{":
            raise ValueError(
                f"{path} is not a weight file: it begins with {head[:16]!r}, unlike PyTorch's files, pickles "
                "and safetensors"
            ) from error
        text = f"{type(error).__name__}: {_printable(error)}"[:120]
        raise ValueError(
            f"{path} is damaged or was cut off after {size} bytes ({text}): download it again, and compare its size "
            "with the source's"
        ) from error


class _Problem(Exception):
    """An error in a file, as the end of a sentence that begins with its name."""


def _printable(text: object) -> str:
    """Text from a file on one printable line: a terminal may obey other characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:400])


def _what_else(head: bytes) -> str:
    """The type of a file that is not weights, by its first bytes, with the fix; "" if it may hold weights."""
    if not head:
        return "is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull` in the repository it comes from"
    if head.lstrip()[:1] == b"<":
        return "is a web page: download the file itself, not the page about it"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "is compressed: unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first (a file of PyTorch before 0.2 must be saved again with a newer one)"
    return ""


# ------------------------------------------------------------------------------------------- containers


def _torch_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    """PyTorch since 1.6: FOLDER/data.pkl, and the bytes of storage k in FOLDER/data/k."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        found = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(found) != 1:
            inside = ", ".join(names[:3])
            raise _Problem(f"is a zip archive that PyTorch did not write (it holds {inside} ...): unpack it first")
        folder = found[0].removesuffix("data.pkl")
        if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
            raise _Problem(_BIG_ENDIAN)
        tree, _ = safe_unpickle.load(io.BytesIO(archive.read(found[0])))
        return _named_tensors(tree, lambda s: archive.read(f"{folder}data/{s.key}"))


def _pickles(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """One pickle; or PyTorch's old row of them: magic number, version, machine, the object, keys of the storages.

    Behind the keys, each storage is its count of numbers (int64) and then the numbers.
    """
    tree, _ = safe_unpickle.load(file)
    if tree != _MAGIC:
        return _named_tensors(tree, _no_storage)
    safe_unpickle.load(file)
    machine, _ = safe_unpickle.load(file)
    if not machine["little_endian"]:
        raise _Problem(_BIG_ENDIAN)
    tree, storages = safe_unpickle.load(file)
    keys, _ = safe_unpickle.load(file)
    positions = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        length = count * (2 if storages[key].code == "bf16" else np.dtype(storages[key].code).itemsize)
        positions[key] = (file.tell(), length)
        if length < 0 or file.seek(length, 1) > size:
            raise EOFError(f"storage {key} ends after the end of the file")

    def read_storage(storage: safe_unpickle.Storage) -> bytes:
        start, length = positions[storage.key]
        file.seek(start)
        return file.read(length)

    return _named_tensors(tree, read_storage)


def _no_storage(storage: safe_unpickle.Storage) -> bytes:
    raise pickle.UnpicklingError("it refers to storages of PyTorch, but holds none")


def _named_tensors(tree: Any, read_storage: Callable[[safe_unpickle.Storage], bytes]) -> dict[str, np.ndarray]:
    """The named tensors of an unpickled checkpoint, which may keep them under a key of ``_WRAPPERS``."""
    for _ in _WRAPPERS:  # bounded: a dict in a pickle may hold itself
        inner = [tree[k] for k in _WRAPPERS if isinstance(tree.get(k), dict)] if isinstance(tree, dict) else []
        tree = inner[0] if inner else tree
    if not isinstance(tree, dict):
        raise _Problem(f"holds a {type(tree).__name__} instead of named tensors: save a model's state_dict")
    found = {k: safe_unpickle.to_array(v, read_storage) for k, v in tree.items() if isinstance(k, str)}
    arrays = {k: v for k, v in found.items() if v is not None}
    if not arrays:
        inside = ", ".join(map(str, list(tree)[:5])) or "nothing"
        raise _Problem(f"holds no named tensors (it holds {inside}): save a model's state_dict")
    return arrays


def _safetensors(file: BinaryIO, header_size: int, size: int) -> dict[str, np.ndarray]:
    """Eight bytes: the size of a JSON header {name: {dtype, shape, data_offsets}}; the header; the numbers."""
    numbers_size = size - 8 - header_size
    if numbers_size < 0:
        raise EOFError(f"the header alone has {header_size} bytes")
    file.seek(8)
    header = json.loads(file.read(header_size))
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            known = ", ".join(_SAFETENSORS)
            raise _Problem(f"holds {name} as {entry['dtype']}, which is not supported: save it as one of {known}")
        dtype, (first, end) = np.dtype(_SAFETENSORS[entry["dtype"]]), entry["data_offsets"]
        count = math.prod(entry["shape"])
        if not 0 <= first <= end <= numbers_size or end - first != count * dtype.itemsize:
            raise EOFError(f"{name} is listed at bytes {first}..{end}, but there are only {numbers_size} bytes")
        file.seek(8 + header_size + first)
        value = np.frombuffer(file.read(end - first), dtype).reshape(entry["shape"])
        out[name] = safe_unpickle.from_bfloat16(value) if entry["dtype"] == "BF16" else value
    if not out:
        raise _Problem("holds no tensors")
    return out
