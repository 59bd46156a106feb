"""A page in the browser to drop an image on, with Gradio.

    app.page("run/head", caption_with="Salesforce/blip2-opt-2.7b").launch()

`pip install 'item-jax[demo]'`. What a visitor types is text in a page, never markup.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from item_jax import evidence, files, images, installed, plots
from item_jax.detector import ItemDetector
from item_jax.evidence import Explanation
from item_jax.fitted import FittedMethod
from item_jax.records import Object
from item_jax.sidecar_runs import Request, check_installed

BOX = ("phrase", "x1", "y1", "x2", "y2")
PARTS = ("without", "effect", "cosine", "P(fake)")

INTRODUCTION = (
    "Is this image AI-generated? The image is compared with its caption, and each "
    "object with the phrase that names it. **A score is a hint, not evidence.**"
)

SIDE = 1000
"""Pixels of the longer side of the picture that is drawn on."""

TALL = 400
"""Pixels of a picture's height on the page."""

STYLE = """
.verdict { font-size: 1.5rem; font-weight: 600; margin: 0 0 .25rem }
.warning { border-left: 3px solid #d55e00; padding-left: .5rem }
footer { display: none !important }
"""


def check(request: Request) -> None:
    """Makes sure that a page can be shown.

    Args:
      request: whom to ask for captions and boxes, "" for nobody.

    Raises:
      ValueError: naming what is not installed.
    """
    if installed.missing(("gradio",)):
        raise ValueError("gradio missing: pip install 'item-jax[demo]'")
    if request.caption_with or request.ground_with:
        check_installed(request)


def page(
    head: str | Path | ItemDetector,
    *,
    towers: Any = None,
    caption_with: str | Request = "",
    ground_with: str = "",
) -> Any:
    """Returns the page, a `gradio.Blocks` to `launch`, as a Space on the Hub does.

    Args:
      head: a detector, or what `ItemDetector.from_pretrained` takes.
      towers: of the head, if it does not find its own.
      caption_with, ground_with: as for `ItemDetector.predict`, for visitors who give
        no caption or no boxes; "" to ask them for both.

    Raises:
      ValueError: for a head that cannot be loaded, or what is not installed.
    """
    request = (
        caption_with
        if isinstance(caption_with, Request)
        else Request(caption_with, ground_with=ground_with)
    )
    check(request)
    import gradio

    detector = (
        head
        if isinstance(head, ItemDetector)
        else ItemDetector.from_pretrained(head, towers=towers)
    )
    about = detector.method.range()
    caption_hint, box_hint = _hints(request)
    # No font from the network: the page works where there is none.
    theme = gradio.themes.Base(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    with gradio.Blocks(title="item_jax", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# Real or AI-generated?\n{INTRODUCTION}")
        with gradio.Row():
            with gradio.Column():
                # The file as it was: what is decoded here must not be encoded again.
                image = gradio.Image(
                    label="Image",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=TALL,
                )
                caption = gradio.Textbox(label="Caption", info=caption_hint, lines=2)
                with gradio.Accordion("Objects", open=False):
                    boxes = gradio.Dataframe(
                        headers=list(BOX),
                        datatype=["str", *["number"] * 4],
                        type="array",
                        label=box_hint,
                        row_count=1,
                        column_count=(len(BOX), "fixed"),
                        interactive=True,
                    )
                button = gradio.Button("Judge", variant="primary")
            with gradio.Column():
                verdict = gradio.HTML(_rests(about["text"]))
                picture = gradio.Image(
                    label="Evidence",
                    show_label=False,
                    interactive=False,
                    format="png",
                    buttons=["fullscreen"],
                    visible=False,
                )
                parts = gradio.Dataframe(
                    headers=list(PARTS), interactive=False, visible=False, wrap=True
                )
        button.click(
            _judge(detector, request),
            [image, caption, boxes],
            [verdict, picture, parts, caption],
            api_name="judge",
        )
    blocks.launch = _launcher(blocks.launch, theme=theme, css=STYLE)
    return blocks


def _launcher(launch: Callable[..., Any], **looks: Any) -> Callable[..., Any]:
    """Gradio takes the looks of a page when it is launched, not when it is made."""
    return lambda *words, **options: launch(*words, **(looks | options))


def _hints(request: Request) -> tuple[str, str]:
    caption = "What the image shows, in one sentence."
    if request.caption_with:
        caption = f"Leave it empty to have it made by {request.caption_with}."
    boxes = "Boxes as fractions of width and height, 0 to 1."
    if request.ground_with:
        boxes += f" Leave them empty to have them found by {request.ground_with}."
    return caption, boxes


def _judge(detector: ItemDetector, request: Request) -> Callable[..., Any]:
    """What happens when the button is pressed."""
    import gradio

    def judge(image: str | None, caption: str, boxes: Sequence[Sequence[Any]]):
        try:
            if not image:
                raise ValueError("drop an image first")
            explanation = explain(
                detector, image, caption, objects_of(boxes), request=request
            )
        except (ValueError, OSError, RuntimeError) as e:
            # The visitor reads it; a traceback would only fill the log.
            said = html.escape(files.printable(e))
            raise gradio.Error(said, title="Not judged", print_exception=False) from e
        drawn = draw(explanation, image, detector.method)
        p = explanation.prediction
        return (
            verdict_html(detector, explanation),
            gradio.update(value=drawn, visible=True),
            gradio.update(value=rows(explanation), visible=True),
            p.caption,
        )

    return judge


def objects_of(boxes: Sequence[Sequence[Any]]) -> list[Object]:
    """Reads the table of boxes; rows without a phrase and numbers are left out.

    Args:
      boxes: rows of phrase, x1, y1, x2, y2.

    Raises:
      ValueError: for a row that is not a box, naming it.
    """
    found = []
    for number, row in enumerate(boxes or (), start=1):
        cells = [x for x in row if x is not None and str(x).strip() not in ("", "nan")]
        if not cells:
            continue
        try:
            phrase, *box = cells
            x1, y1, x2, y2 = (float(x) for x in box)
            found.append(Object(str(phrase), (x1, y1, x2, y2), 1.0))
        except (TypeError, ValueError) as e:
            raise ValueError(
                f"object {number}: a phrase and a box x1 < x2, y1 < y2 within 0 and 1, "
                f"found {', '.join(map(str, row))}"
            ) from e
    return found


def explain(
    detector: ItemDetector,
    image: str | Path,
    caption: str,
    objects: Sequence[Object] = (),
    *,
    request: Request,
) -> Explanation:
    """Judges one image file.

    Args:
      detector: that judges.
      image: path of the file.
      caption: "" to have it made.
      objects: () to have them found.
      request: by whom, "" for nobody.

    Raises:
      ValueError: if there is no caption and no captioner; if there are objects
        without a caption; if the image cannot be read.
    """
    caption = caption.strip()
    options: dict[str, Any] = {}
    if caption:
        options["captions"] = [caption]
        request = dataclasses.replace(request, caption_with="")
    elif not request.caption_with:
        raise ValueError("write a caption: what does the image show?")
    if objects:
        if not caption:
            raise ValueError("objects go with a caption: write it too")
        options["objects"] = [list(objects)]
        request = dataclasses.replace(request, ground_with="")
    if request.caption_with or request.ground_with:
        options["caption_with"] = request
    (found,) = detector.explain([str(image)], **options)
    if found.prediction.status != "done":
        raise ValueError(f"{found.prediction.error}")
    return found


def draw(
    explanation: Explanation, image: str | Path, method: FittedMethod | None = None
) -> np.ndarray:
    """Returns the picture of the evidence, uint8 `[H, W, 3]`.

    Args:
      explanation: of `explain`.
      image: path of the file.
      method: that judged, to be named in the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = Path(image)
    pixels = images.read_image(path.parent, path.name)
    step = max(1, -(-max(pixels.shape[:2]) // SIDE))
    figure = plots.evidence(pixels[::step, ::step], explanation, method)
    figure.set_dpi(120)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    # Room for the button that the page puts into the corner.
    return np.pad(drawn, ((40, 0), (0, 0), (0, 0)), constant_values=255)


def rows(explanation: Explanation) -> list[list[str]]:
    """Returns the table of parts: what, its effect, its cosine, P(fake) without it."""
    p = explanation.prediction
    out = [["nothing: as it is", "", f"{p.cosine:+.3f}", f"{p.p_fake:.3f}"]]
    parts: list[tuple[str, str, float | None]] = []
    if explanation.objects:
        parts = [
            (evidence.WHOLE, "", explanation.p_fake_without_global),
            (evidence.OBJECTS, "", explanation.p_fake_without_objects),
        ]
    parts += [
        (files.printable(o.object.phrase), f"{o.cosine:+.3f}", o.p_fake_without)
        for o in evidence.shown(explanation.objects)
    ]
    for name, cosine, value in parts:
        if value is not None and p.p_fake is not None:
            does = evidence.EFFECTS[evidence.effect(p.p_fake, value)]
            out.append([name, does, cosine, f"{value:.3f}"])
    return out


def verdict_html(detector: ItemDetector, explanation: Explanation) -> str:
    """Returns the verdict, its warnings, and what it rests on, as HTML."""
    p = explanation.prediction
    lines = [
        f'<p class="verdict">{p.verdict}, P(fake) = {p.p_fake:.3f}</p>',
        f"<p>fake above {detector.method.threshold:.4g}; cosine of image and caption "
        f"{p.cosine:+.3f}</p>",
    ]
    lines += [
        f'<p class="warning">{html.escape(files.printable(warning))}</p>'
        for warning in (*detector.warnings, *p.warnings)
    ]
    return "\n".join([*lines, _rests(detector.method.range()["text"])])


def _rests(text: str) -> str:
    shown = html.escape(files.printable(text))
    return f"<p>What a verdict rests on: {shown}.</p>"
