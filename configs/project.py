"""Your project as one config file in any folder, docs/own_data.md, "One file for a project".

    from configs import project

    def change(config):
        config.data.root = "photos"
        config.data.novel_classes = ("mug",)

    def get_config(arg=None):
        return project.get_config(arg, "cups", "custom,size=small", change)

    python PATH/launch/train.py --config cups.py                # stage 1
    python PATH/launch/train.py --config cups.py:shots=5        # stage 2

Paths in it are relative to the folder that the command runs in, as everywhere.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import variant


def get_config(arg: str | None, name: str, options: str, change: Callable[[ConfigDict], None]) -> ConfigDict:
    """The locked config of a stage of a project.

    Args:
      arg: what follows the colon of ``--config``: options of configs/base.py or configs/fewshot.py. With ``shots=`` it
        is stage 2, without it stage 1, unless ``stage=base`` or ``stage=fewshot`` is given.
      name: of the project, in a-z, 0-9, _ and -; it is part of the run folder: ``runs/base-custom-NAME``.
      options: preset and options of both stages, ``custom,size=small``; those in ``arg`` override them.
      change: sets in a config, whose ``stage`` tells it which one it is, what is different from the preset.

    Raises:
      ValueError: an unknown option.
    """
    stage = "fewshot" if variant.take(arg, "shots", "")[0] else "base"

    def change_locked(config: ConfigDict) -> None:
        change(config.lock())  # a misspelled field is an error
        config.unlock()

    return variant.get_config(f"stage={stage},{arg or ''}", method=name, change=change_locked, options=options)
