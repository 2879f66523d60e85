"""The config of a run: read from a config file or a run folder, changed by arguments, completed from other runs.

Only functions import jax, after `cli` has set its environment.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from launch import config_errors
from maskdiff_jax import config_fields


def default_workdir(config: ConfigDict) -> Path:
    """The default run folder of this config."""
    name = f"{config.stage}-{config.preset}"
    if config.method != "maskdiff":
        name += f"-{config.method}"
    if config.paper:
        name += "-paper"
        if config.stage == "base":  # the literal mask head is built for one K
            name += f"-{config.model.mask.slots}shot"
    if config.stage != "base":
        name += f"-{config.fewshot.shots}shot-seed{config.fewshot.seed}"
    return Path("runs") / name


def weights_workdir(config: ConfigDict) -> Path:
    """The default folder of imported weights."""
    return Path("runs") / f"weights-{config.weights}"


def read_config(file: str, overrides: list[str]) -> tuple[ConfigDict, frozenset[str]]:
    """Reads a config file and changes fields of it.

    The file gets the size and the number of classes of the run that a later stage starts from: steps, rates and batches
    depend on them.

    Args:
      file: as ``--config`` takes it, with an argument behind a colon.
      overrides: arguments ``--config.a.b=value``.

    Returns:
      The locked config, and the names of the fields that were given explicitly.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an unknown field, a value of the wrong type, or an error of the file itself.
    """
    define, path = partial(config_flags.DEFINE_config_file, "config", None), Path(file.partition(":")[0])
    config_errors.check(path)
    try:
        config, values = _parsed(define, [f"--config={file}", *overrides])
    except Exception as error:
        where = config_errors.place(error, path)
        if not where:
            raise
        text = str(error).removeprefix("config: ") if isinstance(error, ValueError) else f"{error!r}"
        raise ValueError(where + text) from error
    given = set(config_flags.get_override_values(values["config"]))
    if "size" in given:
        raise ValueError(
            "config.size is set by the option size= of a config file: --config configs/base.py:custom,size=tiny"
        )
    given |= {name for name in ("weights", "size") if re.search(rf"[:,]\s*{name}=", file)}
    more = [f"{k}={v}" for k, v in options_before(config).items() if not re.search(rf"[:,]\s*{k}=", file)]
    if more and ":" in file:
        config, _ = _parsed(define, [f"--config={','.join([file, *more])}", *overrides])
    return config, frozenset(given)


def options_before(config: ConfigDict) -> dict[str, Any]:
    """Options that a config file of a later stage lacks and the run that it starts from decides."""
    if config.stage == "base" or config.preset.startswith("shapes"):
        return {}
    from configs import presets

    folder = Path(config.init_from or default_start(config))
    try:
        before = json.loads((folder / "config.json").read_text())
        size, classes = before.get("size"), before["model"]["num_classes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # `complete` says what is wrong
        return {}
    options: dict[str, Any] = {}
    if size in tuple(presets.SIZES) and size != config.size:
        options["size"] = size
    if type(classes) is int and not config.model.num_classes:
        options["classes"] = classes
    return options


def override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """A locked copy of a config with fields changed by arguments ``--config.a.b=value``.

    Raises:
      ValueError: an unknown field, or a value of the wrong type.
    """
    define = partial(config_flags.DEFINE_config_dict, "config", config.copy_and_resolve_references())
    return _parsed(define, overrides)[0]


def _parsed(define: Callable, arguments: list[str]) -> tuple[ConfigDict, flags.FlagValues]:
    """Defines and parses a config flag of ml_collections; its errors become one sentence."""
    for argument in arguments:
        field = re.match(r"--config\.([\w.]+)", argument)
        if field and field[1] in config_fields.RENAMED:
            raise ValueError(f"config.{field[1]} is now called config.{config_fields.RENAMED[field[1]]}")
    values, argv = flags.FlagValues(), ["config", *arguments]
    try:
        define(flag_values=values, sys_argv=argv, lock_config=True)
        values(argv)
    except (flags.Error, OSError) as error:
        raise ValueError(last_line(error)) from error
    except (AttributeError, KeyError, TypeError) as error:  # an unknown field, a value of the wrong type
        text = str(error.args[0]) if error.args else repr(error)
        text = re.sub(r"(\\n|['\"\\\s])+", " ", text).strip()
        text = re.sub(r" Other fields present: {.*?}\.?(?= Did|$)", "", text)
        text = re.sub(r" Did you mean (\S+) instead of .*", r": did you mean \1?", text)
        raise ValueError(f"config: no such field or value: {text}") from error
    config = values.config.lock()
    if problem := config_fields.find_problem(config.to_dict()):
        raise ValueError(f"config: {problem}")
    return config, values


def last_line(error: Exception) -> str:
    """The last line of an error: ml_collections puts the traceback of a config file into its message."""
    last = [x for x in str(error).splitlines() if x.strip()][-1].strip()
    return last.removeprefix("ValueError: ")


def default_start(config: ConfigDict) -> Path:
    """The default folder of the run that a config starts from."""
    before = config.copy_and_resolve_references().unlock()
    before.stage = {"base": "base", "fewshot": "base", "distill": "fewshot"}[config.stage]
    if before.stage == "base":
        before.method = config.base_method or config.method
    return default_workdir(before)


def complete(
    config: ConfigDict, given: frozenset[str] = frozenset(), say: Callable[[str], object] = print
) -> ConfigDict:
    """Fills what depends on other fields: where a later stage starts from and what it inherits, the number of classes.

    Args:
      config: is changed.
      given: the fields that were given explicitly; they are not inherited.
      say: is told in one line what was inherited.

    Raises:
      ValueError: a field was given that must be as in the run that this one starts from.
    """
    if not config.init_from and (config.stage != "base" or config.base_method):
        config.init_from = str(default_start(config))
    elif not config.init_from and config.weights == "detector":
        config.init_from = str(weights_workdir(config))
    if config.stage != "base":
        inherit(config, given, say)
    if config.model.num_classes == 0:
        from maskdiff_jax.data import pipeline

        config.model.num_classes = len(pipeline.open_split(config.data, "train").categories)
    return config


def inherit(config: ConfigDict, given: frozenset[str], say: Callable[[str], object]) -> None:
    """Takes model and classes from the run that a stage starts from, and says what that changes."""
    from configs import variant
    from maskdiff_jax import workdir
    from maskdiff_jax.training import compatibility

    folder = Path(config.init_from)
    if not (folder / workdir.CONFIG).is_file():
        return  # `train.run` says so
    first = variant.plain_stage_1(config)
    own = frozenset(workdir.different_fields(workdir.as_json(config), workdir.as_json(first))) - given
    if config.method != "maskdiff":  # the file of a variant says which classifier each stage has
        own |= {compatibility.CLASSIFIER}
    changed = compatibility.inherit(config, workdir.read_config(folder), folder, given=given, own=own)
    if changed:
        say(f"from {folder}: {', '.join(f'{k} = {v!r}' for k, v in changed.items())}")


def check_same_run(folder: Path, config: ConfigDict) -> None:
    """Checks that a run folder belongs to a config file: same stage, preset and shots; other fields may differ.

    Raises:
      FileNotFoundError: there is no run in the folder.
      ValueError: it is of another stage or preset, or of other shots; names the field.
    """
    from maskdiff_jax import workdir

    ours, theirs = workdir.as_json(config), workdir.as_json(workdir.read_config(folder))
    same = ["stage", "preset", "paper"] + (["fewshot.shots", "fewshot.seed"] if config.stage != "base" else [])
    differ = [name for name in workdir.different_fields(ours, theirs) if name in same]
    if differ:
        raise ValueError(
            f"{folder} holds a run of another config than --config ({workdir.describe(differ, theirs, ours)}): "
            "omit --config, the folder has its own config"
        )


def trained_config(folder: Path, overrides: list[str]) -> ConfigDict:
    """The config of a trained run, with changes to what may differ after training.

    Raises:
      FileNotFoundError: there is no run in the folder.
      ValueError: a field that does not exist, or that trained weights depend on.
    """
    from maskdiff_jax import workdir

    config = override(workdir.read_config(folder), overrides)
    workdir.check(folder, config)
    return config
