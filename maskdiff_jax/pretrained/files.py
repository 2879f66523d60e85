"""Weight files of other projects: which container, which kind, which tensors.

Both are told from the content, not from the name: zip (PyTorch since 1.6), PyTorch's older row of pickles, plain
pickles (detectron2), safetensors. PyTorch itself is not needed. What comes out is float32 by name; optimizer
states and the like stay in the file.
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

from maskdiff_jax.pretrained import safe_unpickle

_MAGIC = 0x1950A86A20F9469CFC6C  # PyTorch's, the first pickle of an old file
# keys under which checkpoints keep the model among other things: detectron2, TFA; Lightning, timm; Detectron
_WRAPPERS = ("model", "state_dict", "blobs")
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U8": "u1", "BOOL": "b1",
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format


class Foreign(NamedTuple):
    """A weight file as read."""

    kind: str  # a name in KINDS
    state: dict[str, np.ndarray]  # foreign name -> tensor; what was floating is float32


# kind -> names that only such a file has, in words
KINDS = {
    "msra": (("conv1_w", "res2_0_branch2a_w"), "ImageNet backbone in Caffe2 names (detectron2's MSRA/R-50.pkl)"),
    "detectron2": (
        ("backbone.bottom_up.stem.conv1.weight", "proposal_generator.rpn_head.conv.weight"),
        "Faster or Mask R-CNN with FPN of detectron2 or TFA",
    ),
    "detectron2-backbone": (
        ("stem.conv1.weight", "res2.0.conv1.weight"),
        "ImageNet backbone in detectron2's names (torchvision/R-50.pkl)",
    ),
    "resnet": (("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv3.weight"), "torchvision's or timm's ResNet-50"),
    "guided-diffusion": (("time_embed.0.weight", "input_blocks.0.0.weight"), "UNet of guided-diffusion"),
}


def read(path: str | Path) -> Foreign:
    """Reads a weight file and says what it is.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no weight file, damaged, holding more than tensors and plain containers, or of an unknown kind;
        names the file and the mend.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no weight file {path}: README, "The paper\'s recipe", says where to get it')
    with path.open("rb") as file:
        entries = _open(path, file)
    if entries and all(name.startswith("module.") for name in entries):  # saved from DistributedDataParallel
        entries = {name.removeprefix("module."): value for name, value in entries.items()}
    state = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in entries.items()}
    return Foreign(_kind(path, state), state)


def _kind(path: Path, state: dict[str, np.ndarray]) -> str:
    found = [kind for kind, (names, _) in KINDS.items() if all(n in state for n in names)]
    if len(found) != 1:
        known = "; ".join(f"{kind}: {text}" for kind, (_, text) in KINDS.items())
        first = _shown(", ".join(list(state)[:5]))
        raise ValueError(f"{path} holds {len(state)} tensors ({first} ...), of no kind that is understood ({known})")
    return found[0]


def _open(path: Path, file: BinaryIO) -> dict[str, np.ndarray]:
    head = file.read(512)
    size = file.seek(0, 2)
    file.seek(0)
    again = "download it again, and compare its size with the source's"
    if reason := _no_weights(head):
        raise ValueError(f"{path} {reason}")
    try:
        if head.startswith(b"PK\x03\x04"):
            return _torch_zip(file)
        length = int.from_bytes(head[:8], "little")
        if head[8:9] == b"{" and length <= _LONGEST_HEADER:
            return _safetensors(file, length, size)
        return _pickles(file, size)
    except safe_unpickle.Refused as error:
        raise ValueError(
            f"{path} holds {_shown(error)}, which is neither a tensor nor a plain container, so it is not read: save "
            "the model's state_dict alone, in the program that wrote the file"
        ) from error
    except _Problem as error:
        raise ValueError(f"{path} {_shown(error)}") from error
    except Exception as error:  # damaged pickles and archives raise many kinds
        if not head.startswith((b"PK\x03\x04", b"\x80", b"(", b"}")) and head[8:9] != b"{":
            raise ValueError(
                f"{path} is no weight file: neither PyTorch's, nor a pickle, nor safetensors (it begins with "
                f"{head[:16]!r})"
            ) from error
        text = f"{type(error).__name__}: {_shown(error)}"[:120]
        raise ValueError(f"{path} is damaged or cut off after {size} bytes ({text}): {again}") from error


class _Problem(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


def _shown(text: object) -> str:
    """Names from a file may hold anything: nothing but what can be printed on one line is shown."""
    return "".join(c if c.isprintable() else "?" for c in str(text)[:400])


def _no_weights(head: bytes) -> str:
    """What a file that begins so is instead of weights; "" for what may be weights."""
    if not head:
        return "is empty: download it again"
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file it stands for: run `git lfs pull` where it comes from"
    if head.lstrip()[:1] == b"<":
        return "is a web page: download the file itself, not the page about it"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        return "is compressed: unpack it first"
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first (if PyTorch before 0.2 wrote it, save it again with a newer one)"
    return ""


# ------------------------------------------------------------------------------------------- containers


def _torch_zip(file: BinaryIO) -> dict[str, np.ndarray]:
    """PyTorch since 1.6: <folder>/data.pkl, and the bytes of storage k as <folder>/data/<k>."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        found = [n for n in names if n == "data.pkl" or n.endswith("/data.pkl")]
        if len(found) != 1:
            inside = ", ".join(names[:3])
            raise _Problem(f"is a zip archive, but not of PyTorch (it holds {inside} ...): unpack it first")
        folder = found[0].removesuffix("data.pkl")
        if folder + "byteorder" in names and archive.read(folder + "byteorder") != b"little":
            raise _Problem("was written on a big-endian machine, which is not understood: save it again on another")
        tree, _ = safe_unpickle.load(io.BytesIO(archive.read(found[0])))
        return _arrays(tree, lambda s: archive.read(f"{folder}data/{s.key}"))


def _pickles(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """One pickle; or PyTorch's old row: magic number, version, machine, the object, keys of storages, their bytes."""
    tree, _ = safe_unpickle.load(file)
    if tree != _MAGIC:
        return _arrays(tree, _no_storage)
    safe_unpickle.load(file)
    machine, _ = safe_unpickle.load(file)
    if not machine["little_endian"]:
        raise _Problem("was written on a big-endian machine, which is not understood: save it again on another")
    tree, storages = safe_unpickle.load(file)
    keys, _ = safe_unpickle.load(file)
    at = {}
    for key in keys:  # each: how many numbers, int64, then the numbers
        (count,) = struct.unpack("<q", file.read(8))
        length = count * (2 if storages[key].code == "bf16" else np.dtype(storages[key].code).itemsize)
        at[key] = (file.tell(), length)
        if length < 0 or file.seek(length, 1) > size:
            raise EOFError(f"storage {key} ends behind the end of the file")

    def stored(storage: safe_unpickle.Storage) -> bytes:
        start, length = at[storage.key]
        file.seek(start)
        return file.read(length)

    return _arrays(tree, stored)


def _no_storage(storage: safe_unpickle.Storage) -> bytes:
    raise pickle.UnpicklingError("a tensor of PyTorch in a file that holds no storages")


def _arrays(tree: Any, read_storage: Callable[[safe_unpickle.Storage], bytes]) -> dict[str, np.ndarray]:
    """The named tensors of a checkpoint, wherever it keeps them."""
    while isinstance(tree, dict) and (inner := next((k for k in _WRAPPERS if isinstance(tree.get(k), dict)), None)):
        tree = tree[inner]
    if not isinstance(tree, dict):
        raise _Problem(f"holds a {type(tree).__name__} instead of named tensors: save a model's state_dict")
    found = {k: safe_unpickle.to_array(v, read_storage) for k, v in tree.items() if isinstance(k, str)}
    arrays = {k: v for k, v in found.items() if v is not None}
    if not arrays:
        inside = ", ".join(map(str, list(tree)[:5])) or "nothing"
        raise _Problem(f"holds no named tensors (but {inside}): save a model's state_dict")
    return arrays


def _safetensors(file: BinaryIO, length: int, size: int) -> dict[str, np.ndarray]:
    """Eight bytes: the length of a json header {name: {dtype, shape, data_offsets}}; the header; the numbers."""
    if 8 + length > size:
        raise EOFError(f"the header alone has {length} bytes")
    file.seek(8)
    header = json.loads(file.read(length))
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _SAFETENSORS:
            known = ", ".join(_SAFETENSORS)
            raise _Problem(f"holds {name} as {entry['dtype']}, which is not understood: save it as one of {known}")
        kind, (first, end) = np.dtype(_SAFETENSORS[entry["dtype"]]), entry["data_offsets"]
        count = math.prod(entry["shape"])
        if not 0 <= first <= end <= size - 8 - length or end - first != count * kind.itemsize:
            raise EOFError(f"{name} lies at {first}..{end} of {size - 8 - length} bytes")
        file.seek(8 + length + first)
        value = np.frombuffer(file.read(end - first), kind).reshape(entry["shape"])
        out[name] = safe_unpickle.from_bfloat16(value) if entry["dtype"] == "BF16" else value
    if not out:
        raise _Problem("holds no tensors")
    return out
