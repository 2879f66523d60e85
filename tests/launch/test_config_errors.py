"""Mistakes in a user's config file are one sentence with the file and the line."""

import pytest

from launch import run_config
from tests import launched

FILE = """from configs import project

def change(config):
    {line}

def get_config(arg=None):
    return project.get_config(arg, "cups", "custom,size=tiny", change)
"""


def test_the_options_choose_the_stage(tmp_path):
    """Those of the argument win over those of the file."""
    path = tmp_path / "cups.py"
    path.write_text(FILE.format(line="config.train.mask.steps = 7"))
    first, second, small = (run_config.read_config(f"{path}{x}", [])[0] for x in ("", ":shots=5,seed=3", ":size=small"))
    assert (first.stage, first.size, first.method, first.train.mask.steps) == ("base", "tiny", "cups", 7)
    assert (second.stage, second.fewshot.shots, second.fewshot.seed, second.train.mask.steps) == ("fewshot", 5, 3, 7)
    assert small.size == "small"
    assert str(run_config.default_workdir(first)) == "runs/base-custom-cups"
    assert str(run_config.default_start(second)) == "runs/base-custom-cups"
    with pytest.raises(ValueError, match="unknown option 'shot'"):
        run_config.read_config(f"{path}:shot=5", [])


@pytest.mark.parametrize(
    "line, words",
    [
        ("config.train.mask.stepz = 3", "cups.py, line 4: no such field or value: Key stepz .*mean steps"),
        ("config.train.mask.steps = 'a'", "cups.py, line 4: .*Could not override field 'steps'"),
        ("config.data.root = = 3", "cups.py, line 4: invalid syntax$"),
        ("config.data.root = photos", "cups.py, line 4: .*name 'photos' is not defined"),
    ],
)  # fmt: skip
def test_the_line_is_named(line, words, tmp_path):
    (tmp_path / "cups.py").write_text(FILE.format(line=line))
    with pytest.raises(ValueError, match=words) as error:
        run_config.read_config(str(tmp_path / "cups.py"), [])
    assert "\n" not in str(error.value) and "Other fields" not in str(error.value)


def test_other_mistakes(tmp_path):
    done = launched.run("train", "--config=cups.py", cwd=tmp_path)
    assert done.code == 2 and "cannot read the config file" in done.err
    (tmp_path / "cups.py").write_text("def config(arg=None):\n    pass\n")
    done = launched.run("train", "--config=cups.py", cwd=tmp_path)
    assert done.code == 2 and "cups.py has no function get_config: docs/own_data.md" in done.err
    (tmp_path / "cups.py").write_bytes(b"\x00\xff")
    done = launched.run("train", "--config=cups.py", cwd=tmp_path)
    assert done.code == 2 and "cups.py" in done.err and "Traceback" not in done.err
