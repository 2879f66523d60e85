"""What the documents name exists: links, files, commands with their flags, config fields, functions, messages."""

import dataclasses
import importlib
import re
import shlex
import sys

import pytest

import maskdiff_jax
from benchmarks import tables
from benchmarks.studies import masks_tables
from configs import base
from maskdiff_jax import config_fields
from maskdiff_jax.inference import predictor
from maskdiff_jax.inference.results import Detections
from tests.docs.documents import NAMES, ROOT, anchor, commands, section, text

FOLDERS = "benchmarks|configs|docs|examples|launch|maskdiff_jax|tests|typings"


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    for label, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text(name)):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name}: [{label}]({target})"
        if heading:
            headings = re.findall(r"^#+ (.*)", file.read_text(), re.M)
            assert heading in map(anchor, headings), f"{name}: [{label}]({target})"


@pytest.mark.parametrize("name", NAMES)
def test_named_files_exist(name):
    shown = text(name)
    if name == "docs/design.md":  # that section names files of other repositories
        shown = shown[: shown.index("## Facts and sources")]
    for path in re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*)", shown):
        if path.endswith("/FILE.py"):  # a placeholder
            continue
        path = path.rstrip(".-")
        assert (ROOT / path).exists(), f"{name} names {path}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_exist_with_their_flags(name):
    for line in commands(name):
        program, *arguments = shlex.split(line, comments=True)
        if program == "make":
            targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
            assert arguments[0] in targets, f"{name}: {line}"
            continue
        script, *arguments = arguments
        source = (ROOT / script).read_text()
        if script.startswith("launch/"):
            source += (ROOT / "launch/cli.py").read_text()
            known = {f"--{flag}" for flag in re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source)}
        else:
            known = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', source))
        fields = None
        for k, argument in enumerate(arguments):
            flag = argument.partition("=")[0]
            if flag == "--config":
                file, _, options = (argument.partition("=")[2] or arguments[k + 1]).partition(":")
                module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
                fields = module.get_config(options)
            elif flag.startswith("--config."):
                _field(flag.removeprefix("--config."), fields or base.get_config("coco"))
            elif flag.startswith("--"):
                assert flag in known, f"{name}: {line}: no {flag}"


def _field(path, config):
    for key in path.split("."):
        assert key in config, f"no config field {path}"
        config = config[key]


@pytest.mark.parametrize("name", [n for n in NAMES if n != "CHANGELOG.md"])  # which lists old names
def test_config_fields_exist(name):
    """Words in code font that look like a field; functions and files are looked for elsewhere."""
    config = base.get_config("coco")
    for path in re.findall(
        r"`(?:--config\.)?((?:data|model|train|fewshot|distill|eval)\.[a-z][\w.]*)[^`]*`", text(name)
    ):
        if path == "model.build" or path.endswith((".py", ".json")):
            continue
        _field(path, config)


def test_the_fields_of_what_the_paper_leaves_open_exist():
    config = base.get_config("coco")
    mask = config.model.mask
    rows = re.findall(r"^\|(.*)\|$", section("docs/design.md", "What the paper leaves open"), re.M)
    found = 0
    for row in rows:
        if row.startswith("---"):
            continue
        cells = re.split(r"\s*\|\s*", row.strip())
        assert len(cells) == 4, row
        where = config
        for path in re.findall(r"`([\w.]+)`", cells[2]):
            parts = path.split(".")
            parent = next((x for x in (config, mask, where) if parts[0] in x), None)
            assert parent is not None, f"no config field {path}: {row}"
            for key in parts:
                assert key in parent, f"no config field {path}: {row}"
                where, parent = parent, parent[key]
            found += 1
    assert found > 40


def test_the_functions_that_design_names_exist():
    named = re.findall(r"`(\w+)\.(\w+)`", section("docs/design.md", "Where things are"))
    checked = 0
    for module, function in named:
        if module in ("sampler", "diffusion", "mask_heads", "model"):
            assert hasattr(importlib.import_module(f"maskdiff_jax.{module}"), function), f"{module}.{function}"
            checked += 1
    assert checked >= 4


def test_quoted_messages_are_in_the_code():
    table = section("docs/own_data.md", "What messages mean")
    quoted = [q for row in re.findall(r"^\| (.*?) \|", table, re.M) for q in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 10
    files = [*(ROOT / "maskdiff_jax").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    # messages are split over lines of source, and hold f-string fields
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(f.read_text() for f in files))
    assert [q for q in quoted if q not in source] == []


def test_tables_are_up_to_date():
    """README's and results.md's numbers are those of benchmarks/results/; `python benchmarks/tables.py` fills them."""
    for path in tables.DOCUMENTS:
        assert tables.filled(path.read_text()) == path.read_text(), f"python benchmarks/tables.py fills {path.name}"
    shown = re.findall(r"<!-- table: (\w+) -->", "".join(p.read_text() for p in tables.DOCUMENTS))
    assert set(shown) == set(tables.TABLES)


def test_tables_of_the_mask_head_are_up_to_date(tmp_path, monkeypatch):
    """`python benchmarks/studies/masks_tables.py` leaves docs/mask_head.md as it is."""
    copy = tmp_path / "mask_head.md"
    copy.write_text(text("docs/mask_head.md"))
    monkeypatch.setattr(masks_tables, "DOCUMENT", copy)
    monkeypatch.setattr(masks_tables.measure, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["masks_tables.py"])
    masks_tables.main()
    assert copy.read_text() == text("docs/mask_head.md")


def test_the_changelog_names_every_renamed_field():
    rows = re.findall(r"^\| `([\w.]+)` \| `([\w.]+)` \|$", text("CHANGELOG.md"), re.M)
    assert dict(rows) == config_fields.RENAMED


def test_the_python_example_uses_what_exists():
    page = section("docs/own_data.md", "In Python")
    assert "import maskdiff_jax\n" in page and maskdiff_jax.load is predictor.load
    known = {field.name for field in dataclasses.fields(Detections)} | set(dir(Detections))
    rows = re.findall(r"^\| (`.*?) \|", page, re.M)
    fields = {name for row in rows for name in re.findall(r"`(\w+)", row)} - {"len", "found", "predictor"}
    fields |= set(re.findall(r"found\.(\w+)", page)) - {"names"}
    of_predictor = set(re.findall(r"predictor\.(\w+)", page))
    assert len(fields) > 12 and fields - {"supervision"} <= known, fields - known
    assert of_predictor and all(hasattr(predictor.Predictor, name) for name in of_predictor)
    options = {name for call in re.findall(r"load\((.*?)\)", page) for name in re.findall(r"(\w+)=", call)}
    assert len(options) > 2 and options <= set(predictor.load.__kwdefaults__)


def test_cited_sections_exist():
    """Code cites a document by its path and a section's title: `docs/design.md, "Detector"`."""
    cited = 0
    for path in [p for f in FOLDERS.split("|") for p in (ROOT / f).rglob("*.py")]:
        code = re.sub(r"\s*\n\s*(#\s*)?", " ", path.read_text())
        for name, title in re.findall(r'(docs/\w+\.md), "([^"]+)"', code):
            headings = re.findall(r"^#+ (.*)", text(name), re.M)
            assert title in headings, f"{path.relative_to(ROOT)} cites {name}, '{title}'"
            cited += 1
    assert cited > 10
