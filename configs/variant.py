"""Makes configs of both stages from the short files in configs/baselines/ and configs/ablations/.

    python launch/train.py --config configs/baselines/mtfa.py:shapes,stage=base
    python launch/train.py --config configs/baselines/mtfa.py:shapes,shots=1,seed=3

A variant is a function that changes a config of either stage.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base, fewshot

STAGES = ("base", "fewshot")


def take(arg: str | None, key: str, default: str) -> tuple[str, str]:
    """Takes the variant's own option out of the argument.

    Returns:
      The value of ``key=value`` in ``arg``, the last if there are several, or the default; and the other parts.
    """
    parts = [part.strip() for part in (arg or "").split(",") if part.strip()]
    values = [part.partition("=")[2] for part in parts if part.startswith(f"{key}=")]
    return (values or [default])[-1], ",".join(part for part in parts if not part.startswith(f"{key}="))


def get_config(
    arg: str | None, *, method: str, change: Callable[[ConfigDict], None], base_method: str = "", options: str = ""
) -> ConfigDict:
    """The locked config of a variant.

    Args:
      arg: ``[preset][,stage=base|fewshot][,key=value...]``; the stage is fewshot unless given, the other keys are
        those of configs/base.py or configs/fewshot.py.
      method: name of the variant, a row of the tables.
      change: sets in a config, whose ``stage`` and ``preset`` tell it where it is, what is different.
      base_method: the method whose stage 1 this one starts from; "": its own.
      options: preset and options that hold unless ``arg`` has others, ``preset,key=value``.

    Raises:
      ValueError: an unknown stage or key; or stage 1 of a variant that uses another method's stage 1.
    """
    stage, rest = take(arg, "stage", "fewshot")
    if stage not in STAGES:
        raise ValueError(f"unknown stage={stage}: choose {' or '.join(STAGES)}")
    if stage == "base" and base_method:
        raise ValueError(f"{method} starts from stage 1 of {base_method}: train that stage 1 instead")
    config = {"base": base, "fewshot": fewshot}[stage].get_config(f"{options},{rest}").unlock()
    config.method, config.base_method = method, base_method
    change(config)
    return config.lock()


def plain_stage_1(config: ConfigDict) -> ConfigDict:
    """The config of stage 1 of the row "maskdiff" with the preset and the options of a config of stage 2."""
    argument = f"{config.preset},paper={str(config.paper).lower()},weights={config.weights}"
    argument += "" if config.preset.startswith("shapes") else f",size={config.size}"
    return base.get_config(argument + (f",shots={config.fewshot.shots}" if config.paper else ""))
