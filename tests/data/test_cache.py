import pickle
import threading

from maskdiff_jax.data.cache import Cached


def test_what_two_threads_compute_counts_once():
    """Two values of 10 bytes fit into 20, even where two threads computed the first one at the same time."""
    both, calls = threading.Barrier(2), []

    def slow(i):
        calls.append(i)
        if i == 0:
            both.wait(10)
        return bytes(10)

    cached = Cached(slow, 20, len)
    threads = [threading.Thread(target=cached, args=(0,)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(10)
    for _ in range(3):
        cached(1)
    assert calls == [0, 0, 1]


def test_what_does_not_fit_is_computed_each_time():
    calls = []
    cached = Cached(lambda i: (calls.append(i), bytes(10))[1], 25, len)
    for i in (0, 1, 2, 2, 1, 0):
        cached(i)
    assert calls == [0, 1, 2, 2]


def test_a_copy_for_another_process_starts_empty():
    cached = Cached(bytes, 100, len)
    cached(3)
    again = pickle.loads(pickle.dumps(cached))
    assert again(3) == bytes(3) and again._kept == {3: bytes(3)}
