"""What the scripts share: flags, run folders, one clear sentence for an error.

A script that makes a run takes ``--config FILE[:ARGUMENT]`` and ``--workdir``. A script that uses a trained run takes
the run's folder and reads the config in it. Both take ``--config.any.field=value``.

Exit codes: 0 done; 1 the run failed or was stopped (Ctrl-C, SIGTERM); 2 what was asked for is wrong.
"""

import os
import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
YNNPACK = "--xla_cpu_experimental_ynn_fusion_type"
WHICH_CONFIG = "no config given: use --config configs/base.py (stage 1) or --config configs/fewshot.py (stage 2)"

from absl import app, flags, logging  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from launch import run_config  # noqa: E402
from maskdiff_jax import errors  # noqa: E402


def define_flags() -> None:
    """``--config`` and ``--workdir``, the flags of every script that works on one run."""
    if "config" not in flags.FLAGS:
        flags.DEFINE_string(
            "config", None, "Config file and preset, e.g. configs/base.py or configs/fewshot.py:coco,shots=1. Any "
            "field can be changed: --config.train.mask.lr=3e-4",
        )  # fmt: skip
    if "workdir" not in flags.FLAGS:
        flags.DEFINE_string("workdir", None, "Run folder; default: runs/<stage>-<preset>.")
    for name in ("config", "workdir"):  # so that --help of the script shows them
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def reject_arguments(argv: list[str]) -> None:
    """Raises ValueError when there are arguments other than flags."""
    if len(argv) > 1:
        raise ValueError(f"unknown argument '{argv[1]}': flags look like --workdir=FOLDER, see --help")


def set_up_jax(mask_size: int = 0) -> None:
    """Keeps compiled programs between runs and the libraries' notices off the screen; call it before jax runs.

    Args:
      mask_size: px, ``model.mask.size``. From 64 on, where nets have their full width, a CPU gets Eigen's convolutions
        in place of YNNPACK's, which jaxlib 0.10 chooses: benchmarks/timing/sampling.py and detector.py time both.
    """
    quiet()
    if mask_size >= 64:
        flags_ = os.environ.get("XLA_FLAGS", "")
        # a flag that a jaxlib does not know ends the process: only the series that it was tried with
        if YNNPACK not in flags_ and version("jaxlib").startswith("0.10."):
            os.environ["XLA_FLAGS"] = f"{flags_} {YNNPACK}=".strip()
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(ROOT / ".cache" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def quiet() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jax is imported
    # orbax reports every step of every save, and an error before it raises it; Matplotlib that it looked for fonts
    logging.set_verbosity(logging.FATAL)


def run(
    main: Callable[..., object],
    *,
    takes_files: bool = False,
    folder: Callable[[ConfigDict], Path] = run_config.default_workdir,
    completes: bool = True,
) -> None:
    """For a script that makes a run: parses ``--config`` and ``--workdir`` and calls ``main(config, workdir)``.

    Args:
      main: the script's.
      takes_files: arguments that are not flags go to ``main`` as a third argument; else they are an error.
      folder: config -> the workdir when no other is given.
      completes: fills what depends on other runs and on the dataset, see `run_config.complete`; else ``main`` does.
    """
    define_flags()
    overrides: list[str] = []

    def start(argv: list[str]) -> None:
        if not takes_files:
            reject_arguments(argv)
        if not flags.FLAGS.config:
            raise ValueError(WHICH_CONFIG)
        config, given = run_config.read_config(flags.FLAGS.config, overrides)
        if completes:
            config = run_config.complete(config, given)
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
        folder = trained_folder(argv[1:], overrides)
        config = run_config.trained_config(folder, overrides)
        set_up_jax(config.model.mask.size)
        main(config, folder)

    guarded(start, overrides)


def trained_folder(arguments: list[str], overrides: list[str]) -> Path:
    """The run folder that was asked for: an argument, ``--workdir``, or the default of ``--config``.

    Raises:
      ValueError: none, several, or a run of another preset or stage than ``--config`` says.
    """
    file, own = flags.FLAGS.config, flags.FLAGS.workdir
    folders = [*arguments, *([own] if own else [])]
    if len(folders) > 1:
        raise ValueError(f"{len(folders)} run folders given, but one is needed: {', '.join(folders)}")
    if not file:
        if not folders:
            raise ValueError("no run given: name its folder, e.g. runs/base-shapes")
        return Path(folders[0])
    config, _ = run_config.read_config(file, overrides)
    folder = Path(folders[0]) if folders else run_config.default_workdir(config)
    run_config.check_same_run(folder, config)
    return folder


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
            raise ValueError(run_config.last_line(error)) from error
        except SystemExit:  # absl has printed the help, and would exit with 1
            sys.exit(0)

    def quietly(argv: list[str]) -> object:
        quiet()
        return start(argv)

    try:
        app.run(quietly, flags_parser=parse)
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        text, code = errors.sentence(error), 2
    except (FloatingPointError, OSError) as error:
        text, code = errors.sentence(error), 1
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        text, code = (
            "out of memory: lower the batch size (--config.train.detector.batch, train.mask.batch, eval.batch "
            "or eval.mask_batch)",
            1,
        )
    except KeyboardInterrupt as stop:
        text, code = str(stop) or "stopped: run the same command again to resume", 1
    # here, where the error is gone and with it what its frames held: data workers end before the process does
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr)
    sys.exit(code)


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
