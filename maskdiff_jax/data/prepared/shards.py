"""Prepared sets: folders of parts, each a whole TFDS data set that one process has written.

    settings.json    what the set was made from; its digest is part of the folder's name
    index.json       all that opening needs: what the examples are, and the files of the parts
    part-00000/      a TFDS data set (array_record) of the first examples; part-00001/ of the next ...

A set is made in `<folder>.writing`, which gets its name when it is whole: a set that has its name is
never half of one. Parts there are whole too, so an interrupted preparation goes on with those that are
missing. Sets made with other settings have other names: they are left aside, not read.
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
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import IO, Any, NamedTuple

import grain
from tensorflow_datasets.proto import tf_example_pb2

from maskdiff_jax.data.prepared.tfds_builders import SceneImages, files_of, is_whole, write_part

VERSION = 2  # of the layout of the files; part of every digest
Features = Mapping[str, Any]  # of a tf.Example
STALE = 24 * 3600  # s: what an interrupted process left beside the sets is removed after this time


class Plan(NamedTuple):
    """The examples of a set and how they are cut into parts."""

    builder: type[SceneImages]
    count: int  # of all examples
    per_part: int  # at most
    # first and last + 1 example -> a function that makes the examples of that part, counted from 0;
    # picklable where several processes are to work
    example: Callable[[int, int], Callable[[int], dict]]


class Parts:
    """The examples of a set by position, as the features of a tf.Example: name -> Feature.

    `bytes_of` and `int_of` read one of them. TFDS' own reader turns every field into an array, which takes longer
    than all else for a small example. Cheap to pickle; each process opens the files itself, when it reads them first.
    """

    def __init__(self, folder: str, files: tuple[tuple[str, int], ...]):
        self._folder, self._files = folder, files  # path below the folder and examples of each file
        self._source: Any = None

    def __len__(self) -> int:
        return sum(n for _, n in self._files)

    def __getitem__(self, i: int) -> Features:
        if self._source is None:
            # the count in brackets spares opening every file to ask for it
            paths = [f"{os.path.join(self._folder, f)}[0:{n}]" for f, n in self._files]
            self._source = grain.sources.ArrayRecordDataSource(paths)
        example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue]: protobuf makes it on import
        return example.FromString(self._source[i]).features.feature

    def __reduce__(self) -> tuple:
        return Parts, (self._folder, self._files)


def bytes_of(example: Features, name: str) -> bytes:
    """A feature of one byte string: an encoded image, a text, an array with `encoding="bytes"`."""
    return example[name].bytes_list.value[0]


def int_of(example: Features, name: str) -> int:
    """A feature of one whole number."""
    return example[name].int64_list.value[0]


def folder_of(root: str | Path, name: str, settings: dict[str, Any]) -> Path:
    """Where the set of these settings lies in `root`, prepared or not."""
    text = json.dumps({**settings, "records_version": VERSION}, sort_keys=True)
    return Path(root) / f"{name}-{hashlib.blake2b(text.encode(), digest_size=5).hexdigest()}"


def is_prepared(folder: Path) -> bool:
    return (folder / "settings.json").is_file()


def write(
    folder: Path,
    settings: dict[str, Any],
    plan: Plan,
    index: Callable[[], dict[str, Any]],
    *,
    workers: int = 0,
    progress: Callable[[Sequence], Iterable] = lambda x: x,
) -> None:
    """Makes the parts that are missing, then the set of them. Waits while another process makes it.

    Args:
      folder: from `folder_of`.
      settings: the same.
      plan: what to write.
      index: makes what `open_parts` gives back, of json types.
      workers: processes; 0, or a single missing part: all in this one.
      progress: wraps the range of all examples; it advances as they are done, whole parts at a time
        where several processes work.

    Raises:
      OSError: no space, or a process died. Whatever making an example raises. Whole parts stay.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    writing = folder.with_name(folder.name + ".writing")
    with _alone(folder):
        if is_prepared(folder):
            return
        writing.mkdir(exist_ok=True)
        _clean(writing)
        try:
            _write_missing(writing, plan, workers, progress)
            files = [[f"{p}/{f}", n, size] for p, *_ in _ranges(plan) for f, n, size in files_of(writing / p)]
            (writing / "index.json").write_text(json.dumps({**index(), "files": files}))
            text = json.dumps({**settings, "records_version": VERSION}, indent=1)
            (writing / "settings.json").write_text(text)
            os.rename(writing, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(
                    f"no space left for {folder}: free some or set data.root to another disk; what is "
                    "whole is kept, the same command goes on from there"
                ) from error
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise OSError(f"{folder} is no whole prepared set: delete that folder") from error
            raise
        finally:
            if writing.is_dir():
                _clean(writing)
                with contextlib.suppress(OSError):  # not empty: parts for the next time
                    writing.rmdir()


def open_parts(folder: Path) -> tuple[dict[str, Any], Parts]:
    """The index of a prepared set and its examples; ValueError if it is damaged."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
        for name, _, size in index["files"]:
            found = (folder / name).stat().st_size
            if found != size:
                raise ValueError(f"{name} has {found} bytes instead of {size}")
        return index, Parts(str(folder), tuple((f, n) for f, n, _ in index["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, error) from error


def damaged(folder: Path, why: object) -> ValueError:
    """What to raise when a set does not hold what it should."""
    return ValueError(f"the prepared set {folder} is damaged ({why}): delete that folder")


def _ranges(plan: Plan) -> Iterator[tuple[str, int, int]]:
    """Name, first and last + 1 example of each part."""
    for k, start in enumerate(range(0, plan.count, plan.per_part)):
        yield f"part-{k:05d}", start, min(start + plan.per_part, plan.count)


def _write_missing(writing: Path, plan: Plan, workers: int, progress: Callable[[Sequence], Iterable]) -> None:
    walk = iter(progress(range(plan.count)))

    def tick(n: int) -> None:
        for _ in range(n):
            next(walk, None)

    missing = []
    for name, start, stop in _ranges(plan):
        if is_whole(writing / name, stop - start):
            tick(stop - start)
        else:
            shutil.rmtree(writing / name, ignore_errors=True)  # cut short when the machine went down
            missing.append((name, start, stop))
    # made one by one, so that the examples of all parts never wait in memory at once
    jobs = (
        (functools.partial(write_part, plan.builder, plan.example(i, j), j - i, writing / name), j - i)
        for name, i, j in missing
    )
    if workers == 0 or len(missing) < 2:
        for job, _ in jobs:
            job(tick)
    else:
        _in_processes(jobs, min(workers, len(missing)), tick)
    next(walk, None)  # over the end: a progress line closes


def _in_processes(jobs: Iterator[tuple[Callable[[], None], int]], workers: int, tick: Callable[[int], None]) -> None:
    """Runs (job, examples) in processes of their own; `spawn`, since grain and jax hold threads and locks."""
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
                "a process that was writing died, perhaps for lack of memory: lower data.workers; what is "
                "whole is kept, the same command goes on from there"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Lets a process end silently with Ctrl-C, and when its parent is gone, which leaves it without work."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
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
                # a network file system without locks: whoever prepares there must not do so twice at once
            if _is_at(file, path):  # else whom we waited for has removed the file that we locked
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
    """Removes halves of parts, and what runs that were killed long ago left beside the sets."""
    halves = [p for p in writing.iterdir() if p.name.startswith(".part-")]
    for p in writing.parent.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - p.stat().st_mtime > STALE:
                halves.append(p)
    for p in halves:
        shutil.rmtree(p, ignore_errors=True)
