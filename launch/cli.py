"""What the scripts share: flags, run folders, one clear sentence for an error.

A script that makes a run takes ``--config FILE[:ARGUMENT]`` and ``--workdir``. A script that uses a trained run takes
the run's folder and reads the config in it. Both take ``--config.any.field=value``.

Exit codes: 0 done; 1 the run failed or was stopped (Ctrl-C, SIGTERM); 2 what was asked for is wrong.
"""

import os
import re
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"
WHICH_CONFIG = "which config? give --config configs/base.py (stage 1) or configs/fewshot.py (stage 2)"

from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict, config_flags  # noqa: E402

from maskdiff_jax import config_fields  # noqa: E402


def define_flags() -> None:
    """``--config`` and ``--workdir``, the flags of every script that works on one run."""
    if "config" not in flags.FLAGS:
        flags.DEFINE_string(
            "config", None, "Config file and preset, e.g. configs/base.py or configs/fewshot.py:coco,shots=1. Any "
            "field can be changed: --config.train.mask.lr=3e-4",
        )  # fmt: skip
    if "workdir" not in flags.FLAGS:
        flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<stage>-<preset>.")
    for name in ("config", "workdir"):  # so that --help of the script shows them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def reject_arguments(argv: list[str]) -> None:
    """Raises ValueError when there are arguments other than flags."""
    if len(argv) > 1:
        raise ValueError(f"unknown argument '{argv[1]}': flags look like --workdir=FOLDER, see --help")


def default_workdir(config: ConfigDict) -> Path:
    """The folder of a run of this config when no other is given."""
    name = f"{config.stage}-{config.preset}"
    if config.paper:
        name += "-paper"
        if config.stage == "base":  # the literal mask head is built for one K
            name += f"-{config.model.mask.slots}shot"
    if config.stage != "base":
        name += f"-{config.fewshot.shots}shot-seed{config.fewshot.seed}"
    return Path("runs") / name


def read_config(file: str, overrides: list[str]) -> tuple[ConfigDict, frozenset[str]]:
    """Reads a config file and changes fields of it.

    Args:
      file: as ``--config`` takes it, with an argument behind a colon.
      overrides: arguments ``--config.a.b=value``.

    Returns:
      The locked config, and the names of the fields that were given explicitly.

    Raises:
      FileNotFoundError: no such file.
      ValueError: an unknown field, a value of the wrong type, or an error of the file itself.
    """
    define = partial(config_flags.DEFINE_config_file, "config", None)
    config, values = _parsed(define, [f"--config={file}", *overrides])
    given = set(config_flags.get_override_values(values["config"]))
    if re.search(r"[:,]\s*weights=", file):
        given.add("weights")
    return config, frozenset(given)


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
        raise ValueError(_last_line(error)) from error
    except (AttributeError, KeyError, TypeError) as error:  # an unknown field, a value of the wrong type
        text = str(error.args[0]) if error.args else repr(error)
        raise ValueError("config: no such field or value: " + re.sub(r"(\\n|['\"\\\s])+", " ", text).strip()) from error
    try:
        config = values.config.lock()  # ml_collections raises here when there is no such file
    except OSError as error:
        raise FileNotFoundError(f"cannot read the config file: {_last_line(error)}") from error
    if problem := config_fields.find_problem(config.to_dict()):
        raise ValueError(f"config: {problem}")
    return config, values


def _last_line(error: Exception) -> str:
    """ml_collections puts the traceback of a config file into its message: the last line says what is wrong."""
    last = [x for x in str(error).splitlines() if x.strip()][-1].strip()
    return last.removeprefix("ValueError: ")


def complete(config: ConfigDict, given: frozenset[str] = frozenset()) -> ConfigDict:
    """Fills what depends on other fields: where a later stage starts from and what it inherits, the number of classes.

    Args:
      config: is changed.
      given: the fields that were given explicitly; they are not inherited.

    Raises:
      ValueError: a field was given that must be as in the run that this one starts from.
    """
    if config.stage != "base":
        if not config.init_from:
            before = config.copy_and_resolve_references().unlock()
            before.stage = {"fewshot": "base", "distill": "fewshot"}[config.stage]
            config.init_from = str(default_workdir(before))
        inherit(config, given)
    if config.model.num_classes == 0:
        from maskdiff_jax.data import pipeline

        config.model.num_classes = len(pipeline.open_split(config.data, "train").categories)
    return config


def inherit(config: ConfigDict, given: frozenset[str]) -> None:
    """Takes model and classes from the run that a stage starts from, and prints what that changes."""
    from maskdiff_jax import workdir
    from maskdiff_jax.training import compatibility

    folder = Path(config.init_from)
    if not (folder / workdir.CONFIG).is_file():
        return  # `train.run` says so
    changed = compatibility.inherit(config, workdir.read_config(folder), given, folder)
    if changed:
        print(f"from {folder}: {', '.join(f'{k} = {v!r}' for k, v in changed.items())}", flush=True)


def set_up_jax(mask_size: int = 0) -> None:
    """Keeps compiled programs between runs and the libraries' notices off the screen; call it before jax runs.

    Args:
      mask_size: px, ``model.mask.size``. From 64 on, where nets have their full width, a CPU gets Eigen's convolutions
        in place of YNNPACK's, which jaxlib 0.10 chooses: benchmarks/timing/sampling.py and detector.py time both.
    """
    _quiet()
    if mask_size >= 64:
        flags_ = os.environ.get("XLA_FLAGS", "")
        # a flag that a jaxlib does not know ends the process: only the series that it was tried with
        if YNNPACK not in flags_ and version("jaxlib").startswith("0.10."):
            os.environ["XLA_FLAGS"] = f"{flags_} {YNNPACK}=".strip()
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _quiet() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jax is imported
    # orbax reports every step of every save, and an error before it raises it
    logging.set_verbosity(logging.FATAL)


def run(
    main: Callable[..., object], *, takes_files: bool = False, folder: Callable[[ConfigDict], Path] = default_workdir
) -> None:
    """For a script that makes a run: parses ``--config`` and ``--workdir`` and calls ``main(config, workdir)``.

    Args:
      main: the script's.
      takes_files: arguments that are not flags go to ``main`` as a third argument; else they are an error.
      folder: config -> the workdir when no other is given.
    """
    define_flags()
    overrides: list[str] = []

    def start(argv: list[str]) -> None:
        if not takes_files:
            reject_arguments(argv)
        if not flags.FLAGS.config:
            raise ValueError(WHICH_CONFIG)
        config, given = read_config(flags.FLAGS.config, overrides)
        _quiet()
        config = complete(config, given)
        set_up_jax(config.model.mask.size)
        workdir = flags.FLAGS.workdir
        main(config, Path(workdir) if workdir else folder(config), *([argv[1:]] if takes_files else []))

    guarded(start, overrides)


def run_trained(main: Callable[[ConfigDict, Path], object]) -> None:
    """For a script that uses a trained run: takes its folder and calls ``main(config, workdir)``.

    The folder is the script's argument, or ``--workdir``, or the default folder of ``--config``. The config is the
    one in the folder; ``--config.a.b=value`` changes what may differ after training.
    """
    define_flags()
    overrides: list[str] = []

    def start(argv: list[str]) -> None:
        _quiet()
        folder = trained_folder(argv[1:], overrides)
        config = trained_config(folder, overrides)
        set_up_jax(config.model.mask.size)
        main(config, folder)

    guarded(start, overrides)


def trained_folder(arguments: list[str], overrides: list[str]) -> Path:
    """The run folder that was asked for: an argument, ``--workdir``, or the default of ``--config``.

    Raises:
      ValueError: none, several, or a run of another preset or stage than ``--config`` says.
    """
    from maskdiff_jax import workdir

    file, own = flags.FLAGS.config, flags.FLAGS.workdir
    folders = [*arguments, *([own] if own else [])]
    if len(folders) > 1:
        raise ValueError(f"one run at a time, not {len(folders)}: {', '.join(folders)}")
    if not file:
        if not folders:
            raise ValueError("which run? give its folder, e.g. runs/base-shapes")
        return Path(folders[0])
    config, _ = read_config(file, overrides)
    folder = Path(folders[0]) if folders else default_workdir(config)
    theirs = workdir.read_config(folder)
    same = ["stage", "preset", "paper"] + (["fewshot.shots", "fewshot.seed"] if config.stage != "base" else [])
    for name in same:
        one, other = (_field(c, name) for c in (config, theirs))
        if one != other:
            raise ValueError(
                f"{folder} holds a run with {name}={other!r}, but --config says {one!r}: leave --config out, the "
                "folder has its own"
            )
    return folder


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


def _field(config: ConfigDict, name: str) -> object:
    for part in name.split("."):
        config = config[part]
    return config


def guarded(start: Callable[[list[str]], object], overrides: list[str] | None = None) -> None:
    """Runs a script's main; an error that a user can fix becomes one sentence on stderr and an exit code.

    Args:
      start: takes argv without flags.
      overrides: is filled with the arguments ``--config.a.b=value``; None: the script has none.
    """

    def parse(argv: list[str]) -> list[str]:
        if overrides is not None:
            overrides[:], argv = _split_overrides(argv)
        flags.FLAGS.unparse_flags()  # of an earlier script in the same process
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            raise ValueError(_last_line(error)) from error

    try:
        app.run(start, flags_parser=parse)
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        _fail(error, 2)
    except (FloatingPointError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt as stop:
        _fail(KeyboardInterrupt(str(stop) or "stopped: run the same command again to finish"), 1)


def _split_overrides(argv: list[str]) -> tuple[list[str], list[str]]:
    """Arguments ``--config.a.b=value``, and the others.

    Raises:
      ValueError: a value apart from its field, which could be a file as well.
    """
    overrides = [x for x in argv[1:] if re.match(r"--?(no)?config\.", x)]
    for x in overrides:
        if "=" not in x and not re.match(r"--?noconfig\.", x):
            raise ValueError(f"'{x}' has no value: write {x}=VALUE, without a space")
    return overrides, [x for x in argv if x not in overrides]


def _fail(error: BaseException, code: int) -> None:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:  # without its number
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    sys.exit(code)
