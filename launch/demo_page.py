"""The page of launch/demo.py: its parts, and what happens on a click. What is shown comes from
maskdiff_jax/inference/page.py.
"""

import html
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from maskdiff_jax.inference import page, shared_model
from maskdiff_jax.inference.export import TrainedModel
from maskdiff_jax.inference.inputs import Photo
from maskdiff_jax.inference.page import Shot, notice
from maskdiff_jax.inference.results import Detections
from maskdiff_jax.inference.shared_model import Settings, SharedModel

MAX_UPLOAD = "100mb"
BRUSH = ("rgb(255, 159, 67)", 0.6)  # see-through
SELECTED: list = []  # in place of inputs: the number of what was clicked in a gallery
FIRST = "Choose a photo, then press 'Find objects'. The first photo takes longer, because the model is compiled."
ONCE = "If an object is found as several classes, only the class with the highest score is shown."
STYLE = Path(__file__).with_name("demo.css")
WRONG = (ValueError, TypeError, OSError, MemoryError)  # what a visitor can do something about


class Visit(NamedTuple):
    """What one browser tab has."""

    trained: TrainedModel
    folder: Path  # for downloads
    photo: Photo | None = None
    found: Detections | None = None  # of the photo, of any score
    waiting: tuple[Photo, ...] = ()  # photos that have no mask yet
    shots: tuple[Shot, ...] = ()  # of the class that is added next
    added: tuple[str, ...] = ()  # classes


class Page:
    """The page: what it consists of, and what happens on a click. Handlers return new values, by component."""

    def __init__(self, gradio: Any, model: SharedModel, folder: Path, photos: Path, uploads: Path):
        """Builds it.

        Args:
          gradio: the module, which only launch/demo.py imports.
          model: of all visitors.
          folder: of the model.
          photos: folder of the examples; without it there are none.
          uploads: folder for what visitors upload and download.
        """
        self.gr, self.model, self.uploads = gradio, model, uploads
        self.examples = page.examples(photos)
        with gradio.Blocks(title="MaskDiff", analytics_enabled=False, delete_cache=(3600, 86400)) as self.blocks:
            self.visit = gradio.State(None)  # Gradio copies the first value of a tab, and there is none
            self.html(f"<h1>Find objects and their masks</h1><p>Model: {html.escape(folder.name)}</p>")
            self.classes = self.html(self.class_list(Visit(model.base, uploads)))
            with gradio.Tab("Find"):
                self.build_find()
            with gradio.Tab("Add a class"):
                self.build_add()
            if model.has_sampler:
                with gradio.Tab("Compare"):
                    self.build_compare()

    def serve(self, host: str, port: int, open_browser: bool) -> None:
        """Starts the server and returns; requests that name another host are refused (DNS rebinding)."""
        from starlette.middleware import Middleware  # of Gradio
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        own_host = Middleware(TrustedHostMiddleware, allowed_hosts=[host, "localhost"])
        fonts = ["system-ui", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
        theme = self.gr.themes.Base(primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"])
        self.blocks.launch(
            server_name=host, server_port=port, share=False, inbrowser=open_browser, quiet=True,
            prevent_thread_lock=True, show_error=True, footer_links=[], run_history=False, ssr_mode=False,
            enable_monitoring=False, pwa=False, mcp_server=False, max_file_size=MAX_UPLOAD,
            state_session_capacity=50, css_paths=STYLE, theme=theme, app_kwargs={"middleware": [own_host]},
        )  # fmt: skip

    def on(self, event: Callable, handler: Callable, inputs: list, outputs: list, message: Any) -> None:
        """Calls ``handler(visit, *values of inputs)`` at an event; what it raises about them becomes the message."""

        def handle(visit, *values):
            visit = visit or Visit(self.model.base, Path(tempfile.mkdtemp(dir=self.uploads)))
            try:
                return {self.visit: visit, message: "", **handler(visit, *values)}
            except WRONG as error:
                return {self.visit: visit, message: notice(str(error) or type(error).__name__, "error")}

        def handle_selected(visit, event: self.gr.SelectData):  # type: ignore  # Gradio reads it
            return handle(visit, event.index)

        event(
            handle if inputs is not SELECTED else handle_selected,
            [self.visit] if inputs is SELECTED else [self.visit, *inputs],
            [self.visit, message, *outputs], show_progress_on=[message],
            concurrency_id="page", concurrency_limit=1, api_visibility="private",
        )  # fmt: skip

    def picture(self, title: str, name: str) -> Any:
        """A picture below its title."""
        with self.gr.Column(min_width=220, elem_classes="titled"):
            self.html(f"<h3>{title}</h3>")
            return self.gr.Image(
                label=title, show_label=False, interactive=False, buttons=["download", "fullscreen"], format="png",
                elem_id=name,
            )  # fmt: skip

    def html(self, text: str = "", **options: Any) -> Any:
        return self.gr.HTML(text, apply_default_css=False, **options)

    def slider(self, *limits: float, **options: Any) -> Any:
        """A slider whose handler gets any value: Gradio's own check would write a traceback into the log."""
        slider = self.gr.Slider(*limits, **options)
        slider.preprocess = lambda value: value
        return slider

    def class_list(self, visit: Visit) -> str:
        names = shared_model.names(visit.trained)
        chips = [f'<span class="chip{" mine" * (n in visit.added)}">{html.escape(n)}</span>' for n in names]
        return f'<div class="chips">Known classes: {" ".join(chips)}</div>'

    # ------------------------------------------------------------------------------------------ find objects
    def build_find(self) -> None:
        gr = self.gr
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.photo = self.picture("Photo", "photo")
                with gr.Row():
                    upload = gr.UploadButton("Upload photo", elem_id="upload-photo", min_width=120)
                    find = gr.Button("Find objects", variant="primary", elem_id="find", min_width=120)
                self.message = message = self.html(notice(FIRST), elem_id="message")
                if self.examples:
                    pictures = [page.shown(page.read_photo(p).pixels, 256) for p in self.examples]
                    self.html("<h3>Or click an example</h3>")
                    gallery = gr.Gallery(
                        pictures, label="Examples", show_label=False, columns=3, allow_preview=False, buttons=[],
                        height="auto", elem_id="examples",
                    )  # fmt: skip
                score = self.slider(0.05, 0.95, 0.3, step=0.05, label="Minimum score", elem_id="score")
                once = gr.Checkbox(False, label="One class per object", info=ONCE, elem_id="once")
                self.least = [score, once]
                with gr.Accordion("Settings of the sampler", open=False, visible=self.model.has_sampler):
                    sampler = self.sampler_inputs(self.model.settings)
            with gr.Column(scale=3, min_width=300):
                with gr.Row():
                    self.masks = self.picture("Boxes and masks", "masks")
                    self.uncertainty = self.picture("Uncertainty (orange)", "uncertainty")
                self.table = self.html(elem_id="table")
                self.json = gr.DownloadButton("Download COCO json", interactive=False, elem_id="json")
        results = [self.masks, self.uncertainty, self.table, self.json]
        self.on(upload.upload, self.choose, [upload], [self.photo, *results], message)
        if self.examples:
            self.on(gallery.select, self.choose_example, SELECTED, [self.photo, *results], message)
        self.on(find.click, self.find, [*self.least, *sampler], results, message)
        for changed in (score.release, once.input):
            self.on(changed, self.show, self.least, results, message)

    def sampler_inputs(self, settings: Settings) -> list:
        low, high = shared_model.GUIDANCE
        high, steps = max(high, settings.guidance), max(50, settings.steps)  # a model may have more
        return [
            self.slider(low, high, settings.guidance, step=0.5, label="Guidance weight (1: none)"),
            self.slider(1, steps, settings.steps, step=1, label="Steps"),
            self.slider(1, shared_model.MOST_SAMPLES, settings.samples, step=1, label="Samples per mask"),
        ]

    def choose(self, visit: Visit, path: str) -> dict:
        """A photo for tab 1."""
        photo = page.read_photo(path)
        empty = {self.masks: None, self.uncertainty: None, self.table: "", self.json: self.download(None)}
        return {
            self.visit: visit._replace(photo=photo, found=None), self.photo: page.preview(photo.pixels), **empty,
        }  # fmt: skip

    def choose_example(self, visit: Visit, index: int) -> dict:
        return self.choose(visit, str(self.examples[index]))

    def find(self, visit: Visit, score: float, once: bool, *sampler: float) -> dict:
        found = self.model.segment(visit.trained, self.chosen(visit), shared_model.chosen(*sampler))
        visit = visit._replace(found=found)
        return {self.visit: visit, **self.show(visit, score, once)}

    def show(self, visit: Visit, score: float, once: bool) -> dict:
        """The objects from a score on; `once`: each as one class."""
        if visit.found is None:
            return {}
        found = page.visible(visit.found, score, self.model.agnostic_iou if once else None)
        small = page.shrunk(found, self.model.threshold)
        shown = {self.masks: small.plot(), self.uncertainty: page.uncertainty_picture(small)}
        if not len(found):
            text = notice(page.nothing_found(visit.found, score))
            return shown | {self.message: text, self.table: "", self.json: self.download(None)}
        path = page.write_results(found, visit.folder)
        return shown | {self.table: page.table(found), self.json: self.download(path)}

    def chosen(self, visit: Visit) -> Photo:
        if visit.photo is None:
            raise ValueError(
                "choose a photo first, on 'Find': upload one" + " or click an example" * bool(self.examples)
            )
        return visit.photo

    def download(self, path: Path | None) -> Any:
        return self.gr.DownloadButton(value=path, interactive=path is not None)

    # ------------------------------------------------------------------------------------------- add a class
    def build_add(self) -> None:
        gr = self.gr
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.html("<h2>1. Show objects of the class</h2><p>One is enough to try, five are a good number.</p>")
                with gr.Row():
                    upload = gr.UploadButton("Upload photos", file_count="multiple", elem_id="upload-shots")
                    take = gr.Button("Use the photo of 'Find'")
                brush = gr.Brush(default_size=24, colors=[BRUSH], default_color=BRUSH, color_mode="fixed")
                self.html("<h3>Paint over one object</h3>")
                self.editor = gr.ImageEditor(
                    label="Paint over one object", show_label=False, sources=(), transforms=(), layers=False,
                    brush=brush, format="png", type="numpy", elem_id="editor", buttons=[],
                )  # fmt: skip
                with gr.Row():
                    keep = gr.Button("Keep what I painted", elem_id="keep")
                    masks = gr.UploadButton("Or upload masks", file_count="multiple", elem_id="upload-masks")
                self.html("<p>A mask is an image of the photo's size, with the object in white.</p>")
            with gr.Column(scale=2, min_width=300):
                self.shots = gr.Gallery(
                    label="Shots", columns=4, height=150, fit_columns=False, allow_preview=False, buttons=[],
                    elem_id="shots",
                )  # fmt: skip
                clear = gr.Button("Clear", size="sm")
                self.add_message = message = self.html(elem_id="add-message")
                self.html("<h2>2. Name it</h2>")
                self.name = gr.Textbox(label="Name of the class", max_length=60, elem_id="name")
                add = gr.Button("Add class", variant="primary", elem_id="add")
                self.html("<h2>3. Keep or remove it</h2><p>Added classes are gone when this tab closes.</p>")
                self.added = gr.Dropdown([], label="Classes that you added", elem_id="added")
                with gr.Row():
                    remove = gr.Button("Remove", elem_id="remove")
                    save = gr.Button("Save the model", elem_id="save")
                self.zip = gr.File(label="The model with your classes", visible=False, elem_id="zip")
        shots, names = [self.editor, self.shots], [self.classes, self.added]
        self.on(upload.upload, self.take_photos, [upload], shots, message)
        self.on(take.click, self.take_photo, [], shots, message)
        self.on(masks.upload, self.take_masks, [masks], shots, message)
        self.on(keep.click, self.keep, [self.editor], shots, message)
        self.on(clear.click, lambda visit: self.shown_shots(visit._replace(shots=(), waiting=())), [], shots, message)
        self.on(add.click, self.add, [self.name, self.editor], [*shots, *names, self.name, self.zip], message)
        self.on(remove.click, self.remove, [self.added], [*names, self.zip], message)
        self.on(save.click, self.save, [], [self.zip], message)

    def take_photos(self, visit: Visit, paths: list[str]) -> dict:
        photos = tuple(page.read_photo(path) for path in paths)
        return self.shown_shots(visit._replace(waiting=visit.waiting + photos))

    def take_photo(self, visit: Visit) -> dict:
        return self.shown_shots(visit._replace(waiting=(self.chosen(visit), *visit.waiting)))

    def take_masks(self, visit: Visit, paths: list[str]) -> dict:
        """Shots of the waiting photos and uploaded masks."""
        if not visit.waiting:
            raise ValueError("upload the photos first, then their masks")
        owned = page.masks_by_photo([p.file for p in visit.waiting], [Path(p).name for p in paths])
        pairs = [(photo, paths[m]) for photo, mine in zip(visit.waiting, owned, strict=True) for m in mine]
        shots = tuple(page.make_shot(photo, page.read_mask(path)) for photo, path in pairs)
        waiting = tuple(p for p, mine in zip(visit.waiting, owned, strict=True) if not mine)
        return self.shown_shots(visit._replace(shots=visit.shots + shots, waiting=waiting))

    def keep(self, visit: Visit, painted: dict | None) -> dict:
        return self.shown_shots(self.with_painted(visit, painted))

    def with_painted(self, visit: Visit, painted: dict | None) -> Visit:
        """The painted object of the first waiting photo becomes a shot."""
        if not visit.waiting:
            raise ValueError("upload a photo of the object first")
        photo, *others = visit.waiting
        mask = page.painted_mask((painted or {}).get("layers", []), photo.pixels.shape[:2])
        return visit._replace(shots=(*visit.shots, page.make_shot(photo, mask)), waiting=tuple(others))

    def shown_shots(self, visit: Visit) -> dict:
        background = page.shown(visit.waiting[0].pixels) if visit.waiting else None
        editor = None if background is None else {"background": background, "layers": [], "composite": None}
        return {self.visit: visit, self.shots: [page.thumbnail(s) for s in visit.shots], self.editor: editor}

    def add(self, visit: Visit, name: str, painted: dict | None) -> dict:
        if visit.waiting and painted and any(layer[..., 3].any() for layer in painted["layers"]):
            visit = self.with_painted(visit, painted)
        if not visit.shots:
            raise ValueError(
                "show at least one object first: upload a photo, then paint over the object or upload its mask"
            )
        name = name.strip()
        if name in shared_model.names(visit.trained):
            raise ValueError(f"there is a class '{name}' already: give another name, or remove that class first")
        images, masks = [s.photo.pixels for s in visit.shots], [[s.mask] for s in visit.shots]
        trained = self.model.add_class(visit.trained, name, images, masks)
        visit = visit._replace(trained=trained, added=(*visit.added, name), shots=(), waiting=())
        text = f"Added '{name}' ({len(masks)} shot{'s' * (len(masks) > 1)}). Go to 'Find' to see what it finds."
        return {**self.shown_shots(visit), **self.shown_classes(visit), self.name: "", self.add_message: notice(text)}

    def remove(self, visit: Visit, name: str | None) -> dict:
        if not name:
            raise ValueError("choose a class that you added")
        trained = self.model.remove_class(visit.trained, name)
        visit = visit._replace(trained=trained, added=tuple(n for n in visit.added if n != name))
        return {self.visit: visit, **self.shown_classes(visit)}

    def shown_classes(self, visit: Visit) -> dict:
        choices = self.gr.Dropdown(list(visit.added), value=visit.added[-1] if visit.added else None)
        return {self.classes: self.class_list(visit), self.added: choices, self.zip: self.gr.File(visible=False)}

    def save(self, visit: Visit) -> dict:
        path = page.write_zip(visit.trained, visit.folder)
        return {self.zip: self.gr.File(value=str(path), visible=True)}

    # -------------------------------------------------------------------------------------- compare settings
    def build_compare(self) -> None:
        gr, own = self.gr, self.model.settings
        self.html("<p>The photo of 'Find', with masks sampled with two or three settings.</p>")
        inputs, self.compared = [], []
        others = (own, own._replace(steps=10), own._replace(guidance=5.0))
        with gr.Row():
            for letter, settings in zip("ABC", others, strict=True):
                with gr.Column(min_width=250), gr.Group():
                    if letter == "C":
                        third = gr.Checkbox(True, label="Settings C")
                    else:
                        self.html(f"Settings {letter}", elem_classes="head")
                    inputs += self.sampler_inputs(settings)
        compare = gr.Button("Compare", variant="primary", elem_id="compare")
        message = self.html(elem_id="compare-message")
        with gr.Row():
            for letter in "ABC":
                with gr.Column(min_width=250):
                    self.compared += [self.picture(letter, f"compared-{letter}"), self.html()]
        self.on(compare.click, self.compare, [*self.least, third, *inputs], self.compared, message)

    def compare(self, visit: Visit, score: float, once: bool, third: bool, *values: float) -> dict:
        """The pictures and captions of two or three settings; `values` are three of each."""
        photo, all_found = self.chosen(visit), []
        out = dict.fromkeys(self.compared)
        for k in range(3 if third else 2):
            settings = shared_model.chosen(*values[3 * k : 3 * k + 3])
            found = self.model.segment(visit.trained, photo, settings)
            found = page.visible(found, score, self.model.agnostic_iou if once else None)
            all_found.append(page.shrunk(found, self.model.threshold))
            out[self.compared[2 * k]] = all_found[-1].plot()
            out[self.compared[2 * k + 1]] = page.caption(all_found[-1], all_found[0], self.model.evaluations(settings))
        return out
