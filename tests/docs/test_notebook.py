"""The notebook of examples/ runs from top to bottom with the shipped model, and shows what it says."""

import base64
import io
import re

import nbformat
import numpy as np
from PIL import Image

from tests.docs import notebook
from tests.docs.documents import anchor

LARGEST = 500_000  # bytes, with its pictures


def stored() -> nbformat.NotebookNode:
    return nbformat.read(notebook.NOTEBOOK, as_version=4)


def printed(cells: list) -> str:
    return "".join(o.text for cell in cells for o in cell.get("outputs", ()) if o.output_type == "stream")


def pictures(cell: nbformat.NotebookNode) -> list[np.ndarray]:
    data = [o.data["image/jpeg"] for o in cell.outputs if "image/jpeg" in o.get("data", {})]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in data]


def test_it_runs_and_finds_the_new_class(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    done = notebook.execute(notebook.NOTEBOOK.parent)  # as Jupyter runs it: in the notebook's folder
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == k for k, cell in enumerate(cells, 1))
    streams = {o.name for cell in cells for o in cell.outputs if o.output_type == "stream"}
    assert streams == {"stdout"}, "a warning"

    known = "circle square triangle cross heart drop bolt frame"
    first, *_, last = [line for line in printed(cells).splitlines() if line == known]
    assert first == last == known and "5 objects of the class 'star' in 5 photos" in printed(cells)
    results = next(printed([cell]) for cell in cells if "after.save(" in cell.source)
    assert "'category_name': 'star'" in results and results.count("'category_name': ") > 1
    differ, of = re.search(r"8 masks differ: (\d+) of (\d+)", printed(cells)).groups()
    assert 0 < int(differ) < int(of)

    shown = [picture for cell in cells for picture in pictures(cell)]
    assert len(shown) == sum(len(re.findall(r"^show\(", cell.source, re.M)) for cell in cells)
    assert all(picture.std() > 5 for picture in shown), "an empty picture"


def test_what_is_stored_is_whole_small_and_of_no_machine():
    found = stored()
    nbformat.validate(found)
    text = notebook.NOTEBOOK.read_text()
    assert len(text) < LARGEST, "python -m tests.docs.notebook makes it again"
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert all(len(cell.source.splitlines()) <= 25 for cell in code)
    with_pictures = {bool(cell.outputs) for cell in code if re.search(r"^show\(", cell.source, re.M)}
    assert len(with_pictures) == 1, "outputs of some cells"
    said = printed(code) + "".join(cell.source for cell in found.cells)
    assert not re.search(r"(^|[\s'\"(])/(home|root|tmp|work|Users)/", said)


def test_its_links_and_files_exist():
    text = "\n".join(cell.source for cell in stored().cells if cell.cell_type == "markdown")
    links = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    assert len(links) > 4
    for target in links:
        path, _, heading = target.partition("#")
        file = notebook.NOTEBOOK.parent / path
        assert file.is_file(), target
        assert not heading or heading in map(anchor, re.findall(r"^#+ (.*)", file.read_text(), re.M)), target
    for path in re.findall(r"launch/\w+\.py|examples/[\w.]+", text):
        assert (notebook.ROOT / path).exists(), path
