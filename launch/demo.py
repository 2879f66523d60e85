"""A web page on this machine: find objects in photos, add a class, compare settings of the sampler.

    pip install -r requirements-demo.txt
    python launch/demo.py                              # the model examples/model, photos of examples/photos
    python launch/demo.py exports/mine --port=8000 --open

MODEL is a folder that launch/export.py or `Predictor.save` wrote. The page listens only on 127.0.0.1, takes nothing
from the internet and sends nothing there. Ctrl-C stops it and deletes what was uploaded.

Each browser tab has its own classes: its `gr.State` holds a `TrainedModel`, a value that handlers replace and nobody
copies, and all tabs share the compiled programs (maskdiff_jax/inference/shared_model.py). Handlers run one at a time.
"""

import importlib.util
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from absl import flags

from launch import cli

_PORT = flags.DEFINE_integer("port", None, "Port on 127.0.0.1; 0: any free one; default: 7860 or the next free one.")
_OPEN = flags.DEFINE_bool("open", False, "Open the page in the browser.")
MODEL, PHOTOS = cli.ROOT / "examples" / "model", cli.ROOT / "examples" / "photos"
HOST = "127.0.0.1"
DEFAULT_PORTS = range(7860, 7880)


def main(argv: list[str]) -> None:
    """Serves the page until Ctrl-C or SIGTERM."""
    if len(argv) > 2:
        raise ValueError(f"{len(argv) - 1} models given, but one is needed: {', '.join(argv[1:])}")
    folder = Path(argv[1]) if len(argv) > 1 else MODEL
    if len(argv) == 1 and not folder.is_dir():
        raise FileNotFoundError(
            f"there is no {MODEL.relative_to(cli.ROOT)} in this checkout: give the folder of a model, python "
            "launch/demo.py MODEL; launch/export.py writes one, and `make quickstart` leaves runs/quickstart/model"
        )
    port = first_free_port(DEFAULT_PORTS) if _PORT.value is None else free_port(_PORT.value)
    from launch import demo_page
    from maskdiff_jax.inference import predictor, shared_model

    cli.set_up_jax(predictor.read_config(folder).model.mask.size)
    with tempfile.TemporaryDirectory(prefix="maskdiff-demo-") as uploads:
        gradio = import_gradio(uploads)
        page = demo_page.Page(gradio, shared_model.load(folder), folder, PHOTOS, Path(uploads))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            page.serve(HOST, port, _OPEN.value)
            print(f"the page is at http://{HOST}:{port} (Ctrl-C stops it)", flush=True)
            threading.Event().wait()
        except KeyboardInterrupt:  # how a page is stopped: no failure, and `make demo` reports none
            print("stopped")
        finally:
            page.blocks.close(verbose=False)


def first_free_port(ports: range) -> int:
    """The first port that no program listens on.

    Raises:
      ValueError: all are in use.
    """
    for port in ports[:-1]:
        try:
            return free_port(port)
        except ValueError:
            continue
    return free_port(ports[-1])


def free_port(port: int) -> int:
    """The port, or a free one for 0.

    Raises:
      ValueError: no such port, or another program listens there.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"--port={port}: give a number in 0..{2**16 - 1}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"port {port} cannot be used ({error.strerror}): give another, --port=8000") from None
        return probe.getsockname()[1]


def import_gradio(uploads: str) -> Any:
    """Gradio, without telemetry and with a separate folder for uploads.

    Raises:
      ValueError: it is not installed.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page needs Gradio: pip install -r requirements-demo.txt")
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", GRADIO_TEMP_DIR=uploads)
    # Gradio asks its own server whether it is up, and would ask a proxy
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = f"{HOST},localhost"
    import gradio

    return gradio


if __name__ == "__main__":
    cli.guarded(main)
