"""launch/demo.py: what it refuses to start with, and the page in a real browser."""

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from maskdiff_jax.inference import export
from tests import launched, tiny

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WAIT = 120_000  # ms, for programs that are compiled meanwhile
needs_gradio = pytest.mark.skipif(not importlib.util.find_spec("gradio"), reason="needs gradio: requirements-demo.txt")


def save_image(path, height, width):
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "model"
    export.write(folder, tiny.calibrated())
    return folder


@pytest.fixture(scope="module")
def server(exported, tmp_path_factory):
    """A running page: its process, its port, the folder of its temporary files. The last test stops it."""
    place = tmp_path_factory.mktemp("server")
    command = [sys.executable, str(launched.ROOT / "launch" / "demo.py"), str(exported), "--port=0"]
    environment = os.environ | {"TMPDIR": str(place), "HTTP_PROXY": "http://127.0.0.1:9"}  # a proxy that is down
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    line = process.stdout.readline()  # ends when the process does
    found = re.fullmatch(r"the page is at http://127.0.0.1:(\d+) \(Ctrl-C stops it\)\n", line)
    if not found:
        process.kill()
        pytest.fail(f"{line}{process.communicate()[1]}")
    try:
        yield process, int(found[1]), place
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def tab(server):
    """The page in headless Chromium; fails the test if it asks another server or has an error in its script."""
    if not importlib.util.find_spec("playwright"):
        pytest.skip("needs playwright: requirements-dev.txt")
    if BROWSER is None:
        pytest.skip(f"needs a browser on the PATH: one of {', '.join(BROWSERS)}")
    from playwright.sync_api import sync_playwright

    elsewhere, errors = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.set_default_timeout(WAIT)
        own = (f"http://127.0.0.1:{server[1]}/", "blob:", "data:")
        tab.on("request", lambda request: request.url.startswith(own) or elsewhere.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(own[0])
        yield tab
        browser.close()
    assert not elsewhere and not errors


def upload(tab, button, *files):
    with tab.expect_file_chooser() as chooser:
        tab.click(button)
    chooser.value.set_files([str(f) for f in files])


@needs_gradio
def test_from_a_photo_to_a_class_of_ones_own(tab, tmp_path):
    photo, mask = save_image(tmp_path / "mug.png", 48, 64), Image.new("L", (64, 48))
    ImageDraw.Draw(mask).ellipse((20, 10, 50, 40), fill=255)
    mask.save(tmp_path / "white.png")

    tab.click("#find")
    tab.wait_for_selector("#message >> text=choose a photo first")
    (tmp_path / "text.jpg").write_text("no image")
    upload(tab, "#upload-photo", tmp_path / "text.jpg")
    tab.wait_for_selector("#message >> text=cannot read the image text.jpg (not an image")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    upload(tab, "#upload-photo", tmp_path / "huge.png")
    tab.wait_for_selector("#message >> text=huge.png has more than 50 million pixels")

    tab.locator("#examples button").first.click()
    tab.wait_for_selector("#photo img")
    example = tab.get_attribute("#photo img", "src")
    upload(tab, "#upload-photo", photo)
    tab.wait_for_function("before => document.querySelector('#photo img').src != before", arg=example)
    tab.click("#find")
    tab.wait_for_selector("#masks img")
    tab.wait_for_selector("#uncertainty img")
    before = tab.locator("#table tbody tr").all_inner_texts()
    assert 0 < len(before) <= 4 and not any("cup" in row for row in before)
    tab.check("#once input")  # which detections overlap, test_demo_page.py chooses: here the handler answers
    tab.wait_for_function("document.querySelector('#message').innerText.trim() == ''")
    tab.uncheck("#once input")
    with tab.expect_download() as download:
        tab.click("#json")
    results = json.loads(download.value.path().read_text())
    assert len(results) == len(before) and results[0]["file_name"] == "mug.png"
    assert results[0]["segmentation"]["size"] == [48, 64] and download.value.suggested_filename == "mug.json"

    tab.get_by_role("tab", name="Add a class").click()
    tab.fill("#name textarea, #name input", "<cup>")
    tab.click("#add")
    tab.wait_for_selector("#add-message >> text=show at least one object first")
    upload(tab, "#upload-shots", photo)
    tab.wait_for_function("document.querySelector('#add-message').innerText.trim() == ''")
    upload(tab, "#upload-masks", tmp_path / "white.png")
    tab.wait_for_selector("#shots img")
    tab.click("#add")
    tab.wait_for_selector("#add-message >> text=Added '<cup>' (1 shot)")
    tab.wait_for_selector(".chip.mine >> text=<cup>")
    tab.click("#save")
    with tab.expect_download() as download:
        tab.click("#zip a")
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path / "saved")
    assert export.read(tmp_path / "saved" / "model").categories[-1].name == "<cup>"

    tab.get_by_role("tab", name="Find").click()
    tab.click("#find")
    tab.wait_for_function("document.querySelector('#message').innerText.trim() == ''")
    after = tab.locator("#table tbody tr").all_inner_texts()
    assert any("<cup>" in row and "★" in row for row in after), after

    other = tab.context.browser.new_page()  # of another visitor, who has no cup
    other.goto(tab.url)
    other.wait_for_selector(".chip")
    assert other.locator(".chip.mine").count() == 0
    tab.get_by_role("tab", name="Add a class").click()
    tab.click("#remove")
    tab.wait_for_function("!document.querySelector('.chip.mine')")


@needs_gradio
def test_a_painted_shot(tab, tmp_path):
    tab.get_by_role("tab", name="Add a class").click()
    upload(tab, "#upload-shots", save_image(tmp_path / "mug.png", 48, 64))
    for _ in range(20):  # the editor takes a moment to show the photo
        box = tab.locator("#editor .pixi-target").first.bounding_box()
        assert box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        tab.mouse.move(x - 20, y)
        tab.mouse.down()
        tab.mouse.move(x + 20, y + 20, steps=5)
        tab.mouse.up()
        tab.wait_for_timeout(300)
        tab.click("#keep")
        shot = tab.locator("#shots img").or_(tab.locator("#add-message >> text=nothing is painted"))
        shot.first.wait_for()
        if tab.locator("#shots img").count():
            return
    pytest.fail("no shot")


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere"], "nowhere holds no model"),
        (["a", "b"], "2 models given, but one is needed: a, b"),
        (["{exported}", "--port=99999"], "--port=99999: give a number in 0..65535"),
        (["{exported}", "--config.eval.samples=2"], "Unknown command line flag 'config.eval.samples'"),
    ],
)
def test_mistakes_are_one_sentence(exported, arguments, words, tmp_path):
    done = launched.run("demo", *(x.format(exported=exported) for x in arguments), cwd=tmp_path)
    assert done.code == 2 and words in done.err and done.err.strip().count("\n") == 0, done


def test_without_a_model(monkeypatch):
    main = launched.load("demo")["main"]
    monkeypatch.setitem(main.__globals__, "MODEL", launched.ROOT / "examples" / "nothing")
    with pytest.raises(
        FileNotFoundError, match="there is no examples/nothing in this checkout: give the folder of a model"
    ):
        main(["demo.py"])


def test_a_port_in_use(exported):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = launched.run("demo", exported, f"--port={other.getsockname()[1]}")
    assert done.code == 2 and "cannot be used" in done.err and "--port=8000" in done.err


def test_a_default_port_in_use_is_passed_over():
    first_free_port = launched.load("demo")["first_free_port"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = other.getsockname()[1]
        assert first_free_port(range(used, used + 20)) in range(used + 1, used + 20)
        with pytest.raises(ValueError, match=f"port {used} cannot be used"):
            first_free_port(range(used, used + 1))


def test_without_gradio(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = launched.run("demo", exported)
    assert done.code == 2 and "pip install -r requirements-demo.txt" in done.err


@needs_gradio
def test_it_listens_on_this_machine_alone_and_ctrl_c_stops_it(server):
    process, port, place = server
    with pytest.raises(OSError):  # this machine too, where a server of all addresses answers
        socket.create_connection(("127.0.0.2", port), timeout=5)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/") as reply:
        assert reply.status == 200
    other = urllib.request.Request(f"http://127.0.0.1:{port}/", headers={"Host": "attacker.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(other)
    uploads = list(place.glob("maskdiff-demo-*"))
    assert len(uploads) == 1
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and printed == "stopped\n" and not errors  # `make demo` reports no error
    assert not uploads[0].exists()
