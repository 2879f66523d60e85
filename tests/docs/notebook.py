"""Runs the notebook of examples/ in a separate process, as Jupyter does.

python -m tests.docs.notebook      # runs it and stores its outputs in it
"""

import json
import os
import tempfile
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "five_photos.ipynb"
SECONDS = 600  # of one cell, on a busy machine that compiles everything again


def execute(folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of all cells, run in a folder; raises what a cell raises."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return notebook


def main() -> None:
    """Stores the outputs, and nothing that says when or where they were made."""
    with tempfile.TemporaryDirectory() as private:  # Jupyter's own files
        os.environ.update(IPYTHONDIR=private, JUPYTER_RUNTIME_DIR=private)
        notebook = execute(ROOT)
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    print(f"{NOTEBOOK.relative_to(ROOT)}: {NOTEBOOK.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
