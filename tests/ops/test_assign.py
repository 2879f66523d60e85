import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskdiff_jax.ops import assign
from tests.reference import boxes as reference

RPN = dict(thresholds=(0.3, 0.7), labels=(0, -1, 1))
KEY = jax.random.key(0)
# few values, so that ties and values at the limits are the normal case
matrix = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9]), min_size=6, max_size=6), min_size=3, max_size=3
)


@pytest.mark.parametrize("low_quality", [True, False])
@settings(max_examples=60, deadline=None)
@given(matrix)
def test_match_equals_the_reference(low_quality, rows):
    iou = np.float32(rows)
    index, label = assign.match(iou, np.ones(3, bool), low_quality=low_quality, **RPN)
    want_index, want_label = reference.match(iou, np.float32(RPN["thresholds"]), RPN["labels"], low_quality)
    np.testing.assert_array_equal(index, want_index)
    np.testing.assert_array_equal(label, want_label)


def test_match_without_objects():
    index, label = assign.match(jnp.ones((2, 4)), jnp.zeros(2, bool), low_quality=True, **RPN)
    np.testing.assert_array_equal(label, 0)
    np.testing.assert_array_equal(index, 0)


@pytest.mark.parametrize(
    ("fg", "bg", "want_fg", "want_bg"),
    [(9, 20, 4, 4), (2, 20, 2, 6), (0, 20, 0, 8), (9, 1, 4, 1), (0, 0, 0, 0)],
)
def test_sample_counts(fg, bg, want_fg, want_bg):
    label = np.full(30, -1)
    label[:fg], label[fg : fg + bg] = 1, 0
    label = np.random.default_rng(0).permutation(label)
    index, is_fg, used = (np.asarray(v) for v in assign.sample(KEY, jnp.array(label), count=8, positive=0.5))
    assert is_fg.sum() == want_fg and used.sum() == want_fg + want_bg
    assert (label[index[is_fg]] == 1).all() and (label[index[used & ~is_fg]] == 0).all()
    assert len(set(index[used])) == used.sum()  # without replacement
    assert not (is_fg & ~used).any()


def test_sample_is_uniform_and_may_ask_for_more_than_there_are():
    label = jnp.array([1, 1, 1, 0, 0])
    index, is_fg, used = assign.sample(KEY, label, count=16, positive=0.25)
    assert used.sum() == 5 and is_fg.sum() == 3
    first = jax.vmap(lambda k: assign.sample(k, label, count=2, positive=0.5)[0][0])
    share = np.bincount(first(jax.random.split(KEY, 3000)), minlength=5)[:3] / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=0.05)


def ground_truth(**kw):
    base = dict(
        boxes=jnp.array([[0.0, 0, 40, 40], [60, 60, 100, 100], [0, 0, 0, 0]]),
        classes=jnp.array([3, 5, -1]),
        valid=jnp.array([True, True, False]),
        ignored=jnp.array([False, False, False]),
    )
    return assign.GroundTruth(**(base | kw))


def test_ignored_objects_are_neither_targets_nor_background():
    proposals = jnp.array([[0.0, 0, 40, 38], [60, 60, 100, 98], [60, 60, 80, 80], [100, 0, 120, 30], [0, 0, 0, 0]])
    valid = jnp.array([True, True, True, True, False])
    options = dict(background=12, threshold=0.5, count=8, positive=0.5, weights=(10.0, 10.0, 5.0, 5.0))
    sampled = lambda gt: assign.sample_rois(KEY, proposals, valid, gt, **options)
    rois, labels, used, _, matched = (np.asarray(v) for v in sampled(ground_truth()))
    foreground = used & (labels < 12)
    assert [int(x) for x in matched[foreground]] == [{3: 0, 5: 1}[int(x)] for x in labels[foreground]]
    assert sorted(labels[used]) == [3, 3, 5, 5, 12, 12]  # the ground-truth boxes join
    hidden = ground_truth(valid=jnp.array([True, False, False]), ignored=jnp.array([False, True, False]))
    rois, labels, used, *_ = (np.asarray(v) for v in sampled(hidden))
    assert sorted(labels[used]) == [3, 3, 12, 12]  # the one of IoU 0.25 and the one elsewhere stay
    assert not (rois[used] == [60, 60, 100, 98]).all(-1).any()
    gone = ground_truth(valid=jnp.array([True, False, False]))
    out = sampled(gone)
    assert sorted(np.asarray(out.labels)[np.asarray(out.used)]) == [3, 3, 12, 12, 12]


def test_anchors_on_ignored_objects_and_outside_are_not_sampled():
    anchors = jnp.array([[0.0, 0, 40, 40], [62, 62, 100, 100], [70, 70, 80, 80], [100, 0, 120, 30], [200, 0, 220, 30]])
    inside = jnp.array([True, True, True, True, False])
    options = dict(thresholds=(0.3, 0.7), count=8, positive=0.5, weights=(1.0, 1.0, 1.0, 1.0))
    hidden = ground_truth(valid=jnp.array([True, False, False]), ignored=jnp.array([False, True, False]))
    index, is_fg, used, targets = (
        np.asarray(v) for v in assign.sample_anchors(KEY, anchors, inside, hidden, **options)
    )
    assert sorted(index[used]) == [0, 3] and list(index[is_fg]) == [0]
    np.testing.assert_allclose(targets[is_fg], 0, atol=1e-6)
    index, _, used, _ = assign.sample_anchors(KEY, anchors, inside, ground_truth(), **options)
    assert sorted(np.asarray(index)[np.asarray(used)]) == [0, 1, 2, 3]
