"""Tests at the mirrored place, no long file, no dead statement; our own deprecation warnings are errors."""

import ast
import shutil
import subprocess
import sys
import tomllib
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


def test_no_statement_is_unreachable():
    """Nothing follows a return, raise, continue or break of the same block."""
    dead = []
    for module in MODULES:
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            for block in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
                ends = (ast.Return, ast.Raise, ast.Continue, ast.Break)
                if isinstance(block, list) and any(isinstance(statement, ends) for statement in block[:-1]):
                    dead.append(f"{module}: {node.lineno if hasattr(node, 'lineno') else 1}")
    assert not dead


@pytest.mark.parametrize("module", ["maskdiff_jax.ops.nms", "launch.train", "configs.base", "tests.test_x", "__main__"])
def test_our_deprecation_warnings_are_errors(module):
    """See filterwarnings in pyproject.toml: a warning belongs to the module whose line it points to."""
    with pytest.raises(DeprecationWarning, match="old"):
        exec(WARN, {"__name__": module})
    exec(WARN, {"__name__": "another_library"})


def test_the_environment_of_make_imports_the_package_anywhere(tmp_path):
    """The folder of the test has, as a home folder may, a folder named maskdiff_jax that is no package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    for name in ("Makefile", "requirements-cpu.txt", "maskdiff_jax/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["make", "-s", ".venv/.installed-cpu", "CPU=1", "PIP=:"], cwd=tmp_path, check=True)
    other = tmp_path / "home"
    (other / "maskdiff_jax").mkdir(parents=True)
    script = other / "script.py"
    script.write_text("import maskdiff_jax; print(maskdiff_jax.__file__)")
    done = subprocess.run([tmp_path / ".venv/bin/python", script], cwd=other, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "maskdiff_jax" / "__init__.py"), done


def test_an_editable_install_is_a_path():
    """As above for `pip install -e .`: setuptools then writes a .pth file, no import finder."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}
