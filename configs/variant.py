"""How the short files in configs/baselines/ and configs/ablations/ become configs of both stages.

    python launch/train.py --config configs/baselines/mtfa.py:shapes,stage=base
    python launch/train.py --config configs/baselines/mtfa.py:shapes,shots=1,seed=3

A variant says what it changes in a config, whatever its stage.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from configs import base, fewshot

STAGES = ("base", "fewshot")


def get_config(
    arg: str | None, *, method: str, change: Callable[[ConfigDict], None], base_method: str = ""
) -> ConfigDict:
    """The locked config of a variant.

    Args:
      arg: ``[preset][,stage=base|fewshot][,key=value...]``; the stage is fewshot unless given, the other keys are
        those of configs/base.py or configs/fewshot.py.
      method: name of the variant, a row of the tables.
      change: sets in a config, whose ``stage`` and ``preset`` tell it where it is, what is different.
      base_method: the method whose stage 1 this one starts from; "": one of its own.

    Raises:
      ValueError: an unknown stage or key; or the variant has no stage 1 of its own, and that was asked for.
    """
    parts = [part.strip() for part in (arg or "").split(",") if part.strip()]
    stages = [part.partition("=")[2] for part in parts if part.startswith("stage=")] or ["fewshot"]
    if stages[-1] not in STAGES:
        raise ValueError(f"unknown stage={stages[-1]}: choose {' or '.join(STAGES)}")
    if stages[-1] == "base" and base_method:
        raise ValueError(f"{method} starts from stage 1 of {base_method}: train that one")
    rest = ",".join(part for part in parts if not part.startswith("stage="))
    config = {"base": base, "fewshot": fewshot}[stages[-1]].get_config(rest).unlock()
    config.method, config.base_method = method, base_method
    change(config)
    return config.lock()
