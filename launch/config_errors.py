"""Errors in a user's config file, reported with the file and the line."""

import ast
import traceback
from pathlib import Path

CONFIGS = Path(__file__).resolve().parent.parent / "configs"  # whose lines are of no use to a reader of a message


def check(path: Path) -> None:
    """Reads a config file without running it.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not valid Python, or it has no ``get_config``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"cannot read the config file {path}: there is no such file")
    try:
        tree = ast.parse(path.read_text(), str(path))
    except SyntaxError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}") from error
    except ValueError as error:  # no text
        raise ValueError(f"{path} is not a config file: it is not a text file ({error})") from error
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {x.id for node in tree.body for x in ast.walk(node) if isinstance(x, ast.Name)}
    names |= {x.asname or x.name for node in tree.body if isinstance(node, ast.ImportFrom) for x in node.names}
    if "get_config" not in names:
        raise ValueError(
            f'{path} has no function get_config: docs/own_data.md, "One file for a project", shows a config file'
        )


def place(error: BaseException, path: Path) -> str:
    """ "cups.py, line 5: ", where the file raised an error; "" for files of this repository and for other errors."""
    if CONFIGS in path.resolve().parents:
        return ""
    lines: list[int] = []
    seen: BaseException | None = error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        lines += [f.lineno for f in frames if f.lineno and Path(f.filename).resolve() == path.resolve()]
        seen = seen.__cause__ or seen.__context__
    return f"{path}, line {lines[-1]}: " if lines else ""
