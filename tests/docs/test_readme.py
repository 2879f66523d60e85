"""Numbers in the prose of README and docs/ are those that the benchmarks left."""

from benchmarks.tables import results
from tests.docs.documents import text, words


def test_readme_is_one_screen():
    assert len(text("README.md").splitlines()) <= 85


def test_what_the_shipped_model_scores():
    r = results("example_model")
    known, new = r["base"]["segm/base/AP"], r["added"]["segm/novel/AP"]
    assert f"Its mask AP is {known:.0f} on the eight shapes it knows, {new:.0f} on four more" in words("README.md")


def test_what_pasting_costs_is_the_benchmark():
    r = results("paste")
    share = 100 * r["pasting"]["paste_over_decode"]
    assert f"Ten masks of a 24-megapixel photo cost {share:.0f} % of the time of decoding it" in words(
        "docs/own_data.md"
    )
    large = r["prediction"]["large"]
    assert r["objects"] == large["objects"] == 10 and r["height"] * r["width"] == 24_000_000
    assert large["gb_above_model"] < 1 and share < 100


def test_prepared_data_take_a_sixth():
    of = {(m["source"], m["slots"]): m["cpu_ms"] for m in results("data_pipeline")["measured"]
          if m["version"] == "this" and m["loader"] == "mask" and not m["workers"]}  # fmt: skip
    assert "take a sixth of the processor time" in words("docs/own_data.md")
    assert 5.5 < of["plain", 5] / of["prepared", 5] < 6.5


def test_fewer_roi_samples_nearly_halve_detection():
    seconds = {r["engine"]: r["seconds"] for r in results("detector_cpu")["rows"] if r["what"] == "detect"}
    assert "nearly halve the time of inference" in words("docs/results.md")
    assert 0.5 < seconds["ours, roi_sampling=2"] / seconds["ours, roi_sampling=0"] < 0.6
