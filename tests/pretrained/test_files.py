"""Third-party weight files: every container is read, everything else is refused in one clear sentence."""

import gzip
import io
import os
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest

from maskdiff_jax.pretrained import files
from tests.pretrained import third_party_files as written
from tests.pretrained import third_party_names as names

EXAMPLES = int(os.environ.get("MASKDIFF_FUZZ", 50))


def write(tmp_path, data, name="weights.bin"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def state():
    return names.backbone(names.torchvision_name)


def assert_reads(path, state, kind):
    got = files.read(path)
    assert got.kind == kind and got.tensors.keys() == state.keys()
    for name, w in state.items():
        assert got.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(got.tensors[name], w, err_msg=name)


def torch_state(state, **more):
    out = OrderedDict((k, written.tensor(str(i), w)) for i, (k, w) in enumerate(state.items()))
    out |= more
    out._metadata = OrderedDict({"": {"version": 1}})  # as a state_dict carries it
    return out


# ------------------------------------------------------------------------------------------- containers


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_arrays(tmp_path, protocol):
    """detectron2's converted backbone: {"model": arrays, "__author__": ...}."""
    state = names.backbone(names.detectron2_name)
    tree = {"model": state, "__author__": "torchvision", "matching_heuristics": True}
    assert_reads(write(tmp_path, pickle.dumps(tree, protocol)), state, "detectron2-backbone")


def test_pickles_of_python_2(tmp_path):
    state = names.backbone(names.msra_name)
    assert_reads(write(tmp_path, written.python2_pickle(state)), state, "msra")


def test_blobs_fortran_order_and_big_endian(tmp_path):
    state = names.backbone(names.msra_name)
    odd = state | {"conv1_w": np.asfortranarray(state["conv1_w"])}
    odd["res2_0_branch2a_w"] = state["res2_0_branch2a_w"].astype(">f4")
    assert_reads(write(tmp_path, pickle.dumps({"blobs": odd}, 2)), state, "msra")


@pytest.mark.parametrize("form", [written.torch_zip, written.torch_legacy])
def test_files_of_torch(tmp_path, form, state):
    """With the rest of a checkpoint around the model; none of it comes along."""
    lr = written.tensor("900", np.ones(3, np.float32))
    tree = {
        "model": torch_state(state), "iteration": 7, "best": np.float64(0.5), "none": None,
        "optimizer": {"state": {0: {"momentum_buffer": lr}}, "param_groups": [{"params": [0], "betas": (0.9, 0.99)}]},
        "scheduler": {"milestones": Counter({30: 1}), "last_epoch": 3},
    }  # fmt: skip
    assert_reads(write(tmp_path, form(tree)), state, "resnet")
    parallel = OrderedDict((f"module.{k}", v) for k, v in torch_state(state).items())
    assert_reads(write(tmp_path, form({"state_dict": parallel})), state, "resnet")


def test_the_first_bytes_of_an_old_torch_file(state):
    """What PyTorch's C++ reader compares with: the magic number as pickle writes it."""
    assert written.torch_legacy({}).startswith(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.")


@pytest.mark.parametrize("form", [written.torch_zip, written.torch_legacy])
def test_tensors_of_torch_in_all_shapes(tmp_path, form, state):
    rng = np.random.default_rng(0)
    tree = torch_state(state)
    x = rng.standard_normal(state["conv1.weight"].shape).astype(np.float32)
    tree["conv1.weight"] = written.tensor("a", x, transposed=True)
    tree["bn1.weight"] = written.tensor("b", state["bn1.weight"], offset=5, parameter=True)
    tree["bn1.bias"] = written.tensor("c", state["bn1.bias"], "f2")
    tree["bn1.running_mean"] = written.tensor("d", state["bn1.running_mean"], "bf16")
    tree["bn1.running_var"] = written.tensor("e", state["bn1.running_var"].astype(np.float64), "f8")
    tree["bn1.num_batches_tracked"] = written.tensor("f", np.int64(12), "i8")
    tree["empty"] = written.tensor("g", np.zeros((0, 3), np.float32))
    got = files.read(write(tmp_path, form(tree))).tensors
    np.testing.assert_array_equal(got["conv1.weight"], x)
    np.testing.assert_array_equal(got["bn1.weight"], state["bn1.weight"])
    np.testing.assert_array_equal(got["bn1.bias"], state["bn1.bias"].astype(np.float16).astype(np.float32))
    upper = (state["bn1.running_mean"].view(np.uint32) >> 16 << 16).view(np.float32)
    np.testing.assert_array_equal(got["bn1.running_mean"], upper)
    np.testing.assert_array_equal(got["bn1.running_var"], state["bn1.running_var"])
    assert got["bn1.num_batches_tracked"] == 12 and got["bn1.num_batches_tracked"].dtype == np.int64
    assert got["empty"].shape == (0, 3)
    assert all(w.dtype == np.float32 for k, w in got.items() if k != "bn1.num_batches_tracked")


def test_old_torch_views_of_storages(tmp_path, state):
    tree = torch_state(state)
    tree["bn1.weight"] = written.tensor("b", state["bn1.weight"], offset=5, view=5)
    assert_reads(write(tmp_path, written.torch_legacy(tree)), state, "resnet")


def test_safetensors(tmp_path, state):
    entries = {k: ("F32", w.shape, w.tobytes()) for k, w in state.items()}
    assert_reads(write(tmp_path, written.safetensors(entries)), state, "resnet")
    w, b = state["bn1.weight"], state["bn1.bias"]
    entries["bn1.weight"] = ("BF16", w.shape, written.bfloat16(w).tobytes())
    entries["bn1.bias"] = ("F16", b.shape, b.astype("<f2").tobytes())
    entries["bn1.num_batches_tracked"] = ("I64", (), np.int64(3).tobytes())
    got = files.read(write(tmp_path, written.safetensors(entries))).tensors
    np.testing.assert_array_equal(got["bn1.weight"], (w.view(np.uint32) >> 16 << 16).view(np.float32))
    np.testing.assert_array_equal(got["bn1.bias"], b.astype(np.float16))
    assert got["bn1.num_batches_tracked"] == 3 and got["bn1.weight"].dtype == got["bn1.bias"].dtype == np.float32
    entries["odd"] = ("F8_E4M3", (1,), b"0")
    with pytest.raises(ValueError, match="weights.bin holds odd as F8_E4M3"):
        files.read(write(tmp_path, written.safetensors(entries)))


# ------------------------------------------------------------------------------------------- refusals


class Evil:
    def __init__(self, call, *args):
        self.call = (call, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", [lambda tree: pickle.dumps(tree, 2), written.torch_zip, written.torch_legacy])
def test_what_a_pickle_asks_to_call_is_not_called(tmp_path, form, state):
    mark = tmp_path / "called"
    evil = Evil(os.system, f"touch {mark}")
    with pytest.raises(
        ValueError, match=r"weights.bin holds \w+\.system, which is neither a tensor nor a plain"
    ) as error:
        files.read(write(tmp_path, form({"model": {"conv1.weight": evil}})))
    assert "save only the model's state_dict" in str(error.value) and not mark.exists()
    pickle.loads(pickle.dumps(evil, 2))
    assert mark.exists()  # so the file that was refused would have done it


def test_what_a_terminal_would_obey_is_not_printed(tmp_path):
    with pytest.raises(ValueError, match=r"holds os\.sys\?\[2Jtem, which"):
        files.read(write(tmp_path, b"\x80\x02cos\nsys\x1b[2Jtem\n."))


@pytest.mark.parametrize("form", [written.torch_zip, written.torch_legacy])
@pytest.mark.parametrize("shape", [(9,), (2, 9), (-1,), (1 << 40,)])
def test_a_tensor_beyond_its_storage(tmp_path, form, shape, state):
    tree = torch_state(state) | {"bn1.bias": written.tensor("z", np.zeros(8, np.float32), shape=shape)}
    with pytest.raises(ValueError, match="weights.bin is damaged or was cut off .*storage"):
        files.read(write(tmp_path, form(tree)))


CONTAINERS = {
    "pickle": lambda s: pickle.dumps({"model": s}),
    "python 2": lambda s: written.python2_pickle(s),
    "zip": lambda s: written.torch_zip(torch_state(s)),
    "legacy": lambda s: written.torch_legacy(torch_state(s)),
    "safetensors": lambda s: written.safetensors({k: ("F32", w.shape, w.tobytes()) for k, w in s.items()}),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_cut_off_files(tmp_path, container, state):
    whole = CONTAINERS[container](state)
    for length in (len(whole) - 1, len(whole) // 2, 40):
        with pytest.raises(ValueError, match=f"weights.bin is damaged or was cut off after {length} bytes.*again"):
            files.read(write(tmp_path, whole[:length]))


def test_a_flipped_bit_in_a_zip(tmp_path, state):
    whole = bytearray(CONTAINERS["zip"](state))
    at = whole.find(state["layer1.0.conv2.weight"].tobytes())
    assert at > 0
    whole[at] ^= 1
    with pytest.raises(ValueError, match="damaged.*CRC"):
        files.read(write(tmp_path, bytes(whole)))


@pytest.mark.parametrize("container", ["legacy", "safetensors"])
def test_flipped_bytes_give_other_numbers_or_one_sentence(tmp_path, container, state):
    few = {k: v[:2, :2, :1, :1] if v.ndim == 4 else v[:2] for k, v in state.items() if not k.startswith("layer4")}
    whole, rng, failed = CONTAINERS[container](few), np.random.default_rng(1), 0
    for _ in range(EXAMPLES):
        data = bytearray(whole)
        for at in rng.integers(0, 3000, 2):
            data[at] = rng.integers(256)
        try:
            files.read(write(tmp_path, data))
        except ValueError as error:  # anything else would be a traceback for the user
            failed += 1
            assert "weights.bin" in str(error) and str(error).isprintable()
    assert failed > EXAMPLES // 4


def recursive():
    tree = {"conv1_w": 1}
    tree["model"] = tree
    return pickle.dumps(tree)


def npz():
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3))
    return out.getvalue()


@pytest.mark.parametrize(
    "data, word",
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (gzip.compress(b"weights", mtime=0), "unpack it first"),
        (b"\0" * 257 + b"ustar\0" + b"\0" * 300, "tar archive"),
        (npz(), "zip archive that PyTorch did not write"),
        (b"just some text, " * 40, "is not a weight file"),
        (b'{"error": "not found"}', "is not a weight file"),
        (pickle.dumps([1, 2]), "holds a list instead of named tensors"),
        (pickle.dumps({"a": 1, "b": "c"}), "holds no named tensors (it holds a, b)"),
        (recursive(), "holds no named tensors"),
        (written.safetensors({}), "holds no tensors"),
        (written.torch_zip({}, byteorder="big"), "big-endian"),
        (written.torch_legacy({}, little=False), "big-endian"),
    ],
)
def test_other_files_are_refused(tmp_path, data, word):
    path = write(tmp_path, data)
    with pytest.raises(ValueError) as error:
        files.read(path)
    assert str(error.value).startswith(f"{path} ") and word in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no weight file"):
            files.read(path)


# ------------------------------------------------------------------------------------------- kinds


def test_kinds(tmp_path):
    unet = {"time_embed.0.weight": np.zeros((4, 1)), "input_blocks.0.0.weight": np.zeros((1, 7, 3, 3))}
    states = {
        "msra": names.backbone(names.msra_name), "detectron2-backbone": names.backbone(names.detectron2_name),
        "resnet": names.backbone(names.torchvision_name), "detectron2": names.detector(), "guided-diffusion": unet,
    }  # fmt: skip
    assert states.keys() == files.KINDS.keys()
    for kind, state in states.items():
        assert files.read(write(tmp_path, pickle.dumps(state))).kind == kind


def test_an_unknown_kind_is_described_with_the_known_ones(tmp_path):
    state = {"cls_token": np.zeros((1, 1, 4), np.float32), "pos_embed": np.zeros((1, 5, 4), np.float32)}
    with pytest.raises(ValueError) as error:
        files.read(write(tmp_path, pickle.dumps(state)))
    text = str(error.value)
    assert "2 tensors (cls_token, pos_embed ...)" in text and all(kind in text for kind in files.KINDS)
    both = names.backbone(names.msra_name) | names.backbone(names.torchvision_name)
    with pytest.raises(ValueError, match="not a known kind"):
        files.read(write(tmp_path, pickle.dumps(both)))
