"""Prepared sets: folders of shards, each a whole TFDS dataset that one process has written.

    settings.json    what the set was made from, and the checksum of index.json; the digest of the settings is part of
                     the folder's name
    index.json       all that opening a set needs: what the examples are, and the files of the shards
    shard-00000/     a TFDS dataset (array_record) of the first examples; shard-00001/ of the next ...

A set is written to `<folder>.writing`, which is renamed when it is complete: a set that has its name is never half
of one. Shards are complete too, so an interrupted preparation resumes with those that are missing. Sets made with
other settings have other names: they are ignored.

What damage does: array_record files carry their own checksums, which each read verifies; their sizes and the
checksum of index.json are compared when a set is opened. Whatever is wrong raises `damaged`.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any, NamedTuple

import grain
from tensorflow_datasets.proto import tf_example_pb2

from maskdiff_jax import atomic
from maskdiff_jax.data.prepared.tfds_builders import SceneImages, files_of, is_complete, write_shard

VERSION = 3  # of the layout of the files; part of every digest
Features = Mapping[str, Any]  # of a tf.Example


class Plan(NamedTuple):
    """The examples of a set and how they are divided into shards."""

    builder: type[SceneImages]
    count: int  # of all examples
    per_shard: int  # at most
    # first and last + 1 example -> a function that makes the examples of that shard, counted from 0;
    # must be picklable to work in several processes
    example: Callable[[int, int], Callable[[int], dict]]


class Shards:
    """The examples of a set by position, as the features of a tf.Example: name -> Feature.

    `bytes_of` and `int_of` read one of them. TFDS' own reader turns every field into an array, which takes longer
    than all else for a small example. Cheap to pickle; each process opens the files itself, when it first reads them.
    """

    def __init__(self, folder: str, files: tuple[tuple[str, int], ...]):
        self._folder, self._files = folder, files  # path below the folder and number of examples of each file
        self._source: Any = None

    def __len__(self) -> int:
        return sum(n for _, n in self._files)

    def __getitem__(self, i: int) -> Features:
        """Example i; ValueError from `damaged` if its file is missing or its checksum is wrong."""
        try:
            if self._source is None:
                # the count in brackets saves opening every file to ask for it
                paths = [f"{os.path.join(self._folder, f)}[0:{n}]" for f, n in self._files]
                self._source = grain.sources.ArrayRecordDataSource(paths)
            example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]: protobuf makes it on import
            return example.FromString(self._source[i]).features.feature
        except Exception as error:  # array_record raises RuntimeError for a wrong checksum, protobuf its own errors
            raise damaged(self._folder, error) from error

    def __reduce__(self) -> tuple:
        return Shards, (self._folder, self._files)


def bytes_of(example: Features, name: str) -> bytes:
    """A feature of one byte string: an encoded image, a text, an array with `encoding="bytes"`."""
    return example[name].bytes_list.value[0]


def int_of(example: Features, name: str) -> int:
    """A feature of one whole number."""
    return example[name].int64_list.value[0]


def folder_of(root: str | Path, name: str, settings: dict[str, Any]) -> Path:
    """The folder in `root` that a set with these settings has or will have."""
    text = json.dumps({**settings, "records_version": VERSION}, sort_keys=True)
    return Path(root) / f"{name}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def is_prepared(folder: Path) -> bool:
    """Whether the set of `folder_of` is there; a folder with its name is always complete."""
    return (folder / "settings.json").is_file()


def outdated(folder: Path, settings: dict[str, Any]) -> Path | None:
    """A set beside `folder` of the same settings but an older layout, which is not read; None if there is none.

    Args:
      folder: from `folder_of`.
      settings: the same; where they have a "layout", older sets may have another or none.
    """
    versions = ("layout", "records_version", "index_digest")
    wanted = {k: v for k, v in settings.items() if k not in versions}
    for path in folder.parent.glob(f"{folder.name.rsplit('-', 1)[0]}-*/settings.json"):
        try:
            found = json.loads(path.read_bytes())
            same = {k: v for k, v in found.items() if k not in versions} == wanted
        except (OSError, ValueError, AttributeError):  # no settings of ours
            continue
        if same and (found.get("layout"), found.get("records_version")) != (settings.get("layout"), VERSION):
            return path.parent
    return None


def open_shards(folder: Path) -> tuple[dict[str, Any], Shards]:
    """The index of a prepared set and its examples.

    Raises:
      ValueError: the index is not the one that was written, or a file is missing or of another size.
    """
    with named_damage(folder):
        text = (folder / "index.json").read_bytes()
        if json.loads((folder / "settings.json").read_bytes())["index_digest"] != _digest(text):
            raise ValueError("the checksum of index.json is wrong")
        index = json.loads(text)
        for name, _, size in index["files"]:
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(f"{name} has {found} bytes instead of {size}")
        return index, Shards(str(folder), tuple((f, int(n)) for f, n, _ in index["files"]))


@contextlib.contextmanager
def named_damage(folder: Path) -> Iterator[None]:
    """Turns every error of reading the files of a set into `damaged`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(folder, error) from error


def damaged(folder: str | Path, why: object) -> ValueError:
    """The error for a set that is not as it was written."""
    text = " ".join(str(why).split())  # some libraries' messages have several lines
    text = text if len(text) < 300 else text[:297] + "..."
    return ValueError(
        f"the prepared set {folder} is damaged ({text}): delete that folder (launch/prepare_data.py writes it again)"
    )


def write(
    folder: Path,
    settings: dict[str, Any],
    plan: Plan,
    index: Callable[[], dict[str, Any]],
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> None:
    """Writes the shards that are missing, then completes the set. Waits while another process writes it.

    Args:
      folder: from `folder_of`.
      settings: the same.
      plan: what to write.
      index: makes what `open_shards` returns, of json types.
      workers: processes; 0, or a single missing shard: all in this one.
      progress: wraps the range of all examples; it advances as they are done, whole shards at a time
        where several processes work.

    Raises:
      OSError: the disk is full, or a process died. Complete shards stay.
      Exception: whatever making an example raises.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    writing = folder.with_name(folder.name + ".writing")
    with _locked(folder):
        if is_prepared(folder):
            return
        writing.mkdir(exist_ok=True)
        _clean(writing)
        try:
            _write_missing(writing, plan, workers, progress)
            _complete(writing, folder, settings, plan, index)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    f"no space left for {folder}: free some or set data.root to another disk, then run the same "
                    "command again; it writes only the missing shards"
                ) from error
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise OSError(f"{folder} is not a complete prepared set: delete that folder") from error
            raise
        finally:
            if writing.is_dir():
                _clean(writing)
                with contextlib.suppress(OSError):  # not empty: shards for the next time
                    writing.rmdir()


def _complete(
    writing: Path, folder: Path, settings: dict[str, Any], plan: Plan, index: Callable[[], dict[str, Any]]
) -> None:
    """Writes index.json and settings.json beside the shards and gives the folder its name."""
    files = [[f"{p}/{f}", n, size] for p, *_ in _ranges(plan) for f, n, size in files_of(writing / p)]
    text = json.dumps({**index(), "files": files}).encode()
    atomic.write(writing / "index.json", text)
    described = {**settings, "records_version": VERSION, "index_digest": _digest(text)}
    atomic.write_json(writing / "settings.json", described)
    os.rename(writing, folder)


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _ranges(plan: Plan) -> Iterator[tuple[str, int, int]]:
    """Name, first and last + 1 example of each shard."""
    for k, start in enumerate(range(0, plan.count, plan.per_shard)):
        yield f"shard-{k:05d}", start, min(start + plan.per_shard, plan.count)


def _write_missing(writing: Path, plan: Plan, workers: int, progress: Callable[[Sequence], Iterable]) -> None:
    walk = iter(progress(range(plan.count)))

    def tick(n: int) -> None:
        for _ in range(n):
            next(walk, None)

    missing = []
    for name, start, stop in _ranges(plan):
        if is_complete(writing / name, stop - start):
            tick(stop - start)
        else:
            shutil.rmtree(writing / name, ignore_errors=True)  # truncated when the machine went down
            missing.append((name, start, stop))
    # made one by one, so that the examples of all shards never wait in memory at once
    jobs = (
        (functools.partial(write_shard, plan.builder, plan.example(i, j), j - i, writing / name), j - i)
        for name, i, j in missing
    )
    if workers == 0 or len(missing) < 2:
        for job, _ in jobs:
            job(tick)
    else:
        _in_processes(jobs, min(workers, len(missing)), tick)
    next(walk, None)  # past the end: a progress line closes


def _in_processes(jobs: Iterator[tuple[Callable[[], None], int]], workers: int, tick: Callable[[int], None]) -> None:
    """Runs (job, examples) in separate processes; `spawn`, since grain and jax hold threads and locks."""
    context = multiprocessing.get_context("spawn")
    running: dict[futures.Future, int] = {}

    def collect(until: int) -> None:
        while len(running) > until:
            for done in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                done.result()
                tick(running.pop(done))

    with futures.ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent) as pool:
        try:
            for job, examples in jobs:
                running[pool.submit(job)] = examples
                collect(workers)  # one more than there are processes: none waits for the next
            collect(0)
        except BrokenProcessPool as error:
            raise OSError(
                "a worker process died, perhaps because memory ran out: lower data.workers and run the same "
                "command again; it writes only the missing shards"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Lets a process end silently with Ctrl-C, and when its parent has ended, which leaves it without work."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a set; the system drops it with the process, so one that was killed blocks nobody."""
    path = folder.with_name(folder.name + ".lock")
    while True:
        with open(path, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process is preparing {folder}: waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                    raise
                # a network file system without locks: there one process at a time must prepare a set
            if _is_at(file, path):  # else the process that we waited for has removed the file that we locked
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_at(file: IO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _clean(writing: Path) -> None:
    """Removes incomplete shards."""
    for path in writing.glob(".shard-*"):
        shutil.rmtree(path, ignore_errors=True)
