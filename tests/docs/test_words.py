"""Words that this project no longer uses do not come back; docs/design.md, "Words", has the ones it uses."""

import re
import subprocess

import pytest

from tests.docs.documents import ROOT

# pattern -> what to say; patterns are regular expressions and ignore case
RETIRED = {
    r"\bsupport bank": "support set",
    r"\bforeign weights": "pretrained weights, third-party checkpoint",
    r"\brunning mean of the (weights|trainable)": "EMA",
    r"\blike_fgn\b": "gt_classes_only",
    r"\bgo(es|ne|ing)? on (with|where|from)\b": "resume",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\btwo_as_one\b|student of the guidance": "progressive distillation, guidance distillation",
    r"\bnovel rows\b": "novel-class weights",
    r"\bthe way (back|there)\b": "inverse, round trip",
    r"\bcanvas(es)?\b": "padded size",
    r"\bdraw(s|n|ing)?\b|\bdrew\b": "sample (masks, shots), render (figures)",
    r"\btwin\b": "reference implementation",
    r"\bdata sets?\b": "dataset",
    r"\bby heart\b": "memorize",
    r"\bwhoever\b|\bsomebody\b": "say who: the user, a visitor",
    r"\bof (its|their|one's) own\b": "its own, separate",
    r"\banew\b": "again, from new weights",
    r"\bputs? out\b": "outputs",
    r"\btak(e|es|ing) over\b(?! \d)|\btaken over\b|\btook over\b": "copy, inherit, use",
    r"\bembedded (data|scene|shape|test)": "generated scenes",
    r"(?<!-)\btrue box(es)?\b": "ground-truth box",
    r"taken literally": "read literally",
    r"whole or not|\bfor ever\b|\bon trial\b|matter of its|has the attention|stands? beside": "plain English",
    r"fsis_protocol|diffusion_head\.md|\bblueprint": "a section of docs/design.md",
    r"\((A|D)\d+(\.\d+)?\)|\[fsis": "a section of docs/design.md",
    r"colour|centre|\bgrey|optimis|normalis|initialis|parameteris|recognis|organis|randomis|visualis|labelled|labelling"
    r"|neighbour|behaviour|modell|spelt\b": "American spelling",
}  # fmt: skip
# old names that must stay: (file, pattern of the lines)
ALLOWED = (
    ("CHANGELOG.md", r"^- The value"),
    ("tests/launch/test_cli.py", r"config\.\w"),  # renamed fields
    ("docs/design.md", r"EVAL_METHOD: like_fgn"),  # iMTFA's name of its option
    ("CHANGELOG.md", r"^\| `"),
    ("maskdiff_jax/config_fields.py", r'^    "[\w.]+": "[\w.]+",$'),  # RENAMED
    ("", r"ImageDraw|\bdraw = "),  # Pillow's
    ("tests/", r"\bdraw\b"),  # hypothesis'
    # outlines are drawn, in pixels
    ("reporting/", r"\bdr[ae]w"),
    ("synthetic/", r"\bdr[ae]w"),
    ("", r"\bdraw\("),  # a function that draws outlines
)
BINARY = (".npz", ".png", ".json", ".pdf")


def _tracked() -> list[str]:
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if found.returncode:
        pytest.skip("not a git checkout")
    texts = [f for f in found.stdout.split() if not f.endswith(BINARY) and not f.startswith("examples/model/")]
    return [f for f in texts if f != "tests/docs/test_words.py"]


@pytest.mark.parametrize("pattern", RETIRED)
def test_retired_words_stay_retired(pattern):
    offenders = []
    for name in _tracked():
        path = ROOT / name
        if not path.is_file():  # deleted, not yet committed
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if re.search(pattern, line, re.I) and not _allowed(name, line):
                offenders.append(f"{name}:{number}: {line.strip()[:100]}")
    assert not offenders, f"say '{RETIRED[pattern]}':\n" + "\n".join(offenders)


def _allowed(name: str, line: str) -> bool:
    return any(file in name and re.search(pattern, line, re.I) for file, pattern in ALLOWED)
