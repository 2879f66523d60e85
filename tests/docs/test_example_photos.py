"""docs/own_data.md, "Try it with the example photos": every command of the section, as written, with examples/model."""

import json
import re
import subprocess
import sys

import pytest

from tests import launched
from tests.docs.documents import ROOT, section

PAGE = "Try it with the example photos"


def commands():
    """The three commands of the page: script and arguments of each."""
    lines = re.findall(r"^python launch/(\w+)\.py (.*)$", section("docs/own_data.md", PAGE), re.M)
    assert [script for script, _ in lines] == ["sample", "adapt", "sample"]
    return [(script, arguments.split()) for script, arguments in lines]


def labels(folder):
    return {row["category_name"] for row in json.loads((folder / "results.json").read_text())}


@pytest.mark.slow
def test_known_objects_are_found_and_a_star_after_it_is_added(tmp_path):
    script, arguments = commands()[0]
    done = launched.start(script, *arguments, f"--output={tmp_path / 'samples'}", cwd=ROOT)
    assert done.code == 0, done.err
    before = labels(tmp_path / "samples")
    assert before and "star" not in before

    (code,) = re.findall(r"```python\n(.*?)```", section("docs/own_data.md", PAGE), re.S)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == len(list((ROOT / "examples" / "photos").iterdir()))
    assert sum("'star'" in line for line in lines) > len(lines) / 2


@pytest.mark.slow
def test_the_model_is_adapted_in_a_few_steps(tmp_path):
    """With fewer steps than the page takes; the second command reads what the first one wrote."""
    (script, arguments), (then, segment) = commands()[1:]
    few = [f"--config.train.{phase}.steps=2" for phase in ("novel", "detector", "mask")]
    paths = [x.replace("examples/", f"{ROOT}/examples/") for x in arguments]
    done = launched.start(script, *paths, *few, cwd=tmp_path)
    assert done.code == 0, done.err
    paths = [x.replace("examples/", f"{ROOT}/examples/") for x in segment]
    done = launched.start(then, *paths, cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "samples_adapted" / "scene.png").is_file()
