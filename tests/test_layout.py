"""Every module has its tests at the mirrored place, no file is long, and our own deprecation warnings are errors."""

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


def mirrored(module: Path) -> Path:
    """maskdiff_jax/ops/nms.py -> tests/ops/test_nms.py; launch/train.py -> tests/launch/test_train.py."""
    parts = module.parts if module.parts[0] == "launch" else module.parts[1:]
    return Path("tests", *parts[:-1], f"test_{parts[-1]}")


def test_each_module_has_a_test_file():
    assert len(MODULES) > 50
    missing = {str(m): str(mirrored(m)) for m in MODULES if not (ROOT / mirrored(m)).is_file()}
    assert not missing, missing


def test_no_file_is_long():
    lines = {str(m): len((ROOT / m).read_text().splitlines()) for m in MODULES}
    assert not {m: n for m, n in lines.items() if n > MAX_LINES}


@pytest.mark.parametrize("module", ["maskdiff_jax.ops.nms", "launch.train", "configs.base", "tests.test_x", "__main__"])
def test_our_deprecation_warnings_are_errors(module):
    """See filterwarnings in pyproject.toml: a warning belongs to the module whose line it points to."""
    with pytest.raises(DeprecationWarning, match="old"):
        exec(WARN, {"__name__": module})
    exec(WARN, {"__name__": "another_library"})
