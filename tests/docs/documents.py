"""The repository's documents and what they contain: text, code blocks, commands."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / f / "README.md" for f in ("benchmarks", "examples"))]
)
NAMES = [str(d.relative_to(ROOT)) for d in DOCUMENTS]


def text(name: str) -> str:
    """A document."""
    return (ROOT / name).read_text()


def words(name: str) -> str:
    """A document with every run of white space made one space: a phrase is found across line breaks."""
    return " ".join(text(name).split())


def section(name: str, title: str) -> str:
    """From a heading to the next one of the same level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", text(name), re.S | re.M)
    assert found, f"{name} has no section '{title}'"
    return found[2]


def code_lines(name: str) -> list[str]:
    """The lines of the code blocks, fenced or indented by four spaces."""
    lines, fenced = [], False
    for line in text(name).splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    return lines


def commands(name: str) -> list[str]:
    """What a reader may type: lines of code blocks and code in the text that run Python or make."""
    inline = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"^```.*?^```", "", text(name), flags=re.S | re.M))
    lines = [" ".join(line.split()) for line in (*code_lines(name), *inline)]
    return [line for line in lines if re.match(r"((VENV/bin/|\.venv/bin/)?python3? [\w/]+\.py|make )", line)]


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
