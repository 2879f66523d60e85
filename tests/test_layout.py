"""No file is long, and our own deprecation warnings are errors."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 350
MODULES = sorted(
    path.relative_to(ROOT)
    for folder in ("maskdiff_jax", "launch")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)
WARN = compile("import warnings; warnings.warn('old', DeprecationWarning)", "<example>", "exec")


def test_no_file_is_long():
    lines = {str(m): len((ROOT / m).read_text().splitlines()) for m in MODULES}
    assert not {m: n for m, n in lines.items() if n > MAX_LINES}


@pytest.mark.parametrize("module", ["maskdiff_jax.ops.nms", "launch.train", "configs.base", "tests.test_x", "__main__"])
def test_our_deprecation_warnings_are_errors(module):
    """See filterwarnings in pyproject.toml: a warning belongs to the module whose line it points to."""
    with pytest.raises(DeprecationWarning, match="old"):
        exec(WARN, {"__name__": module})
    exec(WARN, {"__name__": "another_library"})
