"""Checkpoints: what is saved comes back; what is broken, or of another model, says so."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from maskdiff_jax import checkpoint
from maskdiff_jax.types import TrainState


def state(step, value=1.0):
    params = {"a": {"w": jnp.arange(3.0) * step}}
    return TrainState(jnp.int32(step), params, {"m": jnp.full(3, value)}, {"a/w": jnp.zeros(3)})


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_phase_round_trip_keeps_the_newest(tmp_path):
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=2) as saved:
        assert saved.restore(state(0)) is None
        for step in (1, 2, 3):
            saved.save(state(step), {"next": step, "nested": [1, {"x": None}]})
    assert sorted(p.name for p in (tmp_path / "phase").iterdir()) == ["2", "3"]
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=2) as again:
        back, data = again.restore(state(0))
    equal(back, state(3))
    assert data == {"next": 3, "nested": [1, {"x": None}]}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_never_the_newest(tmp_path, bad):
    with checkpoint.PhaseCheckpoints(tmp_path / "mask", keep=1) as saved:
        saved.save(state(1), {})
        with pytest.raises(
            FloatingPointError, match="'mask' cannot be saved: opt_state/m has a NaN.* another --workdir"
        ):
            saved.save(state(2, bad), {})
    with checkpoint.PhaseCheckpoints(tmp_path / "mask", keep=1) as again:
        equal(again.restore(state(0))[0], state(1))
    with pytest.raises(FloatingPointError, match="weights for .*final cannot be saved: w has a NaN"):
        checkpoint.save_params(tmp_path / "final", {"w": jnp.array([0.0, bad])})
    assert not list(tmp_path.glob("final*"))


def test_weights_hold_no_path_of_the_machine(tmp_path):
    checkpoint.save_params(tmp_path / "p", {"w": jnp.ones(3)})
    files = [f for f in (tmp_path / "p").rglob("*") if f.is_file()]
    assert len(files) > 3 and not any(str(tmp_path).encode() in f.read_bytes() for f in files)


def test_truncated_checkpoint_names_itself(tmp_path):
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=1) as saved:
        saved.save(state(1), {})
    for file in (tmp_path / "phase" / "1").rglob("*"):
        if file.is_file() and file.stat().st_size > 100 and "METADATA" not in file.name.upper():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=1) as again:
        with pytest.raises(
            ValueError, match="phase/1 is damaged .*: move that folder away: then the same command resumes"
        ):
            again.restore(state(0))


def test_a_flipped_bit_is_an_error_that_names_the_folder(tmp_path):
    """The array is stored uncompressed in part: a bit of it changes and the file still reads well."""
    params = {"a": {"w": jnp.asarray(np.random.default_rng(0).normal(size=5000).astype(np.float32))}}
    checkpoint.save_params(tmp_path / "final", params)
    equal(checkpoint.load_params(tmp_path / "final", params), params)
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=1) as saved:
        saved.save(state(1), {})
    # what a bit flip leaves is a checkpoint of other numbers with the checksums of the old ones
    old = ocp.metadata(tmp_path / "final").custom_metadata
    w = np.array(params["a"]["w"])
    w.view(np.uint32)[17] ^= 1
    ocp.save(tmp_path / "final", {"a": {"w": jnp.asarray(w)}}, overwrite=True, custom_metadata=old)
    with pytest.raises(ValueError, match="final is damaged .the checksum of a/w is wrong.: restore the folder"):
        checkpoint.load_params(tmp_path / "final", params)
    manager = ocp.training.Checkpointer(tmp_path / "phase")
    old = manager.metadata(1).custom_metadata
    manager.save(1, state(1, 1.0000001)._asdict(), overwrite=True, force=True, custom_metadata=old)
    manager.close()
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=1) as again:
        with pytest.raises(ValueError, match="phase/1 is damaged .the checksum of opt_state/m is wrong"):
            again.restore(state(0))


def test_any_damaged_byte_is_noticed_or_harmless(tmp_path):
    """Bits of the data files are flipped one after the other: what loads has the right numbers."""
    params = {"a": {"w": jnp.asarray(np.random.default_rng(0).normal(size=64).astype(np.float32))}}
    checkpoint.save_params(tmp_path / "p", params)
    rng, noticed = np.random.default_rng(1), 0
    for file in sorted(f for f in (tmp_path / "p" / "state").rglob("d/*") if f.is_file()):
        good = file.read_bytes()
        for position in rng.integers(len(good), size=6):
            bad = bytearray(good)
            bad[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(bad)
            try:
                equal(checkpoint.load_params(tmp_path / "p", params), params)
            except ValueError as error:
                assert str(tmp_path / "p") in str(error) and "damaged" in str(error)
                assert "<" not in str(error) and "slice" not in str(error)  # orbax names indices and addresses
                noticed += 1
        file.write_bytes(good)
    assert noticed
    equal(checkpoint.load_params(tmp_path / "p", params), params)


def test_params_of_another_model_are_refused(tmp_path):
    params = {"a": {"w": jnp.arange(3.0)}}
    checkpoint.save_params(tmp_path / "p", params)
    equal(checkpoint.load_params(tmp_path / "p", params), params)
    for other, words in (
        ({"a": {"w": jnp.zeros(4)}}, r"a/w is float32\[3\] there, float32\[4\] here"),
        ({"a": {"w": jnp.zeros(3, jnp.int32)}}, r"a/w is float32\[3\] there, int32\[3\] here"),
        ({"b": {"w": jnp.zeros(3)}}, r"a/w is float32\[3\] there, missing here; b/w is missing there"),
        ({"a": {"w": jnp.zeros(3), "b": jnp.zeros(1)}}, r"a/b is missing there, float32\[1\] here"),
    ):
        with pytest.raises(ValueError, match=f"p is of another model .{words}") as caught:
            checkpoint.load_params(tmp_path / "p", other)
        assert "delete" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="train first"):
        checkpoint.load_params(tmp_path / "none", params)


def test_older_weights_stay_until_the_new_ones_are_whole(tmp_path, monkeypatch):
    first, second = {"w": jnp.zeros(3)}, {"w": jnp.ones(3)}
    checkpoint.save_params(tmp_path / "p", first)

    def full(path, *args, **options):
        (tmp_path / "p.new.orbax-checkpoint-tmp").mkdir()
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes: No space left on device [os_error_code='28']")

    with monkeypatch.context() as patch:
        patch.setattr(ocp, "save", full)
        with pytest.raises(
            OSError, match="the disk is full: free some space, then run the command again. Not written: .*p$"
        ):
            checkpoint.save_params(tmp_path / "p", second)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    equal(checkpoint.load_params(tmp_path / "p", first), first)
    checkpoint.save_params(tmp_path / "p", second)
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
    equal(checkpoint.load_params(tmp_path / "p", second), second)


def test_weights_of_an_older_version_have_no_checksums(tmp_path, capsys):
    params = {"w": jnp.arange(3.0)}
    ocp.save(tmp_path / "p", params)
    equal(checkpoint.load_params(tmp_path / "p", params), params)
    assert "has no checksums" in capsys.readouterr().err


def test_a_full_disk_keeps_the_checkpoints_before(tmp_path, monkeypatch):
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=2) as saved:
        saved.save(state(1), {})

    def full(self, *args, **options):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    monkeypatch.setattr(ocp.training.Checkpointer, "save_async", full)
    with checkpoint.PhaseCheckpoints(tmp_path / "phase", keep=2) as saved:
        with pytest.raises(OSError, match="the disk is full"):
            saved.save(state(2), {})
        equal(saved.restore(state(0))[0], state(1))


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs a small file system")
def test_a_disk_that_is_really_full(small_disk):
    """Whatever orbax raises, and in whichever thread: one sentence, and what was saved stays."""
    big = TrainState(jnp.int32(0), {"w": jnp.asarray(np.random.default_rng(0).normal(size=300_000))}, {}, {})
    with pytest.raises(OSError, match="the disk is full"):
        with checkpoint.PhaseCheckpoints(small_disk / "phase", keep=9) as saved:
            for step in range(1, 9):
                saved.save(big._replace(step=jnp.int32(step)), {})
    with checkpoint.PhaseCheckpoints(small_disk / "phase", keep=9) as saved:
        back, _ = saved.restore(big)
        assert int(back.step) >= 1
    shutil.rmtree(small_disk / "phase")
    with pytest.raises(OSError, match="the disk is full"):
        for i in range(9):
            checkpoint.save_params(small_disk / f"final{i}", big.params)
    equal(checkpoint.load_params(small_disk / "final0", big.params), big.params)


@pytest.fixture
def small_disk(tmp_path):
    """A folder that holds 4 MB."""
    import subprocess

    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_two_phases_save_at_the_same_time(tmp_path):
    """Orbax mixes up saves that overlap: without the lock this waits five minutes or loses a checkpoint."""
    ready = threading.Barrier(2)

    def phase(name):
        with checkpoint.PhaseCheckpoints(tmp_path / name, keep=9) as saved:
            for step in range(1, 6):
                ready.wait(60)
                saved.save(state(step), {})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(phase, ("a", "b")))
    for name in ("a", "b"):
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["1", "2", "3", "4", "5"]
