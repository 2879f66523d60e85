"""launch/quickstart.py: the commands that it ends with work as printed."""

import json
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from maskdiff_jax import checkpoint, workdir
from tests import launched, tiny


def test_the_printed_commands_segment_an_image(tmp_path, capsys):
    """A trained run, tiny: the export and the masks are where the commands say, for the image that was saved."""
    config = tiny.config().unlock()
    config.data.update(root=str(tmp_path / "data"), shapes_support=60, shapes_test=4)
    config.fewshot.shots = 2
    run = tmp_path / "fewshot"
    workdir.create(run, config)
    checkpoint.save_params(workdir.weights_folder(run), tiny.trained().params)
    launched.load("quickstart")["print_usage"](tmp_path, config.lock(), run)
    title, *commands = capsys.readouterr().out.strip().splitlines()
    assert title == "segment an image with this model:" and len(commands) == 2
    for command in commands:
        python, script, *arguments = shlex.split(command)
        assert Path(python).name.startswith("python") and Path(script).is_file()
        done = launched.run(Path(script).stem, *arguments)
        assert done.code == 0, done
    assert np.asarray(Image.open(tmp_path / "example.png")).shape == (128, 128, 3)
    assert (tmp_path / "samples" / "example.png").is_file()
    results = json.loads((tmp_path / "samples" / "results.json").read_text())
    assert all(r["file_name"] == str(tmp_path / "example.png") for r in results)
