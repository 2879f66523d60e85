"""Runs every command of docs/paper_recipe.md on a small generated COCO: what `make rehearsal` calls.

    python -m tests.rehearsal                         # in runs/rehearsal, which is emptied first
    python -m tests.rehearsal --folder=F --start=12   # resumes there with the 12th command

Prints a line per command and stops at the first that fails, with its output.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from tests.rehearsal import commands, stage


def main() -> int:
    """0 if every command did what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/rehearsal"), help="where everything is written")
    parser.add_argument("--start", type=int, default=1, help="number of the first command")
    parser.add_argument("--list", action="store_true", help="only print the commands")
    args = parser.parse_args()
    recipe, begin = commands.recipe(), time.monotonic()
    if args.start == 1 and not args.list:
        shutil.rmtree(args.folder, ignore_errors=True)
        stage.set_up(args.folder)
        print(f"wrote COCO, VOC and weights: {time.monotonic() - begin:.0f} s", flush=True)
    for n, command in list(enumerate(recipe, 1))[args.start - 1 :]:
        print(f"{n:3d}/{len(recipe)} ", end="", flush=True)
        try:
            seconds = None if args.list else stage.run(command, args.folder)
        except AssertionError as error:
            print(f"  failed: {error}")
            return 1
        print("" if seconds is None else f"{seconds:5.0f} s ", command.line, flush=True)
    if not args.list:
        minutes = (time.monotonic() - begin) / 60
        print(f"rehearsal passed: {len(recipe) - args.start + 1} commands, {minutes:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
