"""The miniature world: small drawn scenes, their sentences and their boxes.

A scene is a textured ground with zero to three things on it. `draw_scene` chooses the
things, renders them cleanly, photographs the rendering (exposure, lens, sensor noise,
JPEG) and describes it in English. Nothing here is learned.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw

from camera import SIDE, blur, photograph, to_uint8

MAX_THINGS = 3
EMPTY_SHARE = 0.03  # scenes with nothing on the ground
SUPERSAMPLE = 4
FRAME_UNIT = 4096  # of a layout's whole numbers

COLOURS = {
    "red": (0.83, 0.13, 0.12),
    "orange": (0.96, 0.53, 0.09),
    "yellow": (0.96, 0.86, 0.18),
    "green": (0.16, 0.60, 0.22),
    "cyan": (0.20, 0.80, 0.84),
    "blue": (0.13, 0.29, 0.80),
    "purple": (0.49, 0.17, 0.65),
    "pink": (0.97, 0.58, 0.74),
    "brown": (0.46, 0.27, 0.13),
    "black": (0.09, 0.09, 0.10),
    "white": (0.95, 0.95, 0.94),
    "grey": (0.55, 0.55, 0.56),
}
SIZES = {"small": (8.2, 9.0), "": (11.4, 12.2), "large": (15.0, 16.4)}  # radius, px
GROUNDS = ("plain", "striped", "checkered", "dotted", "wavy")


def _circle(radius: float, count: int = 48) -> np.ndarray:
    turn = np.linspace(0, 2 * math.pi, count, endpoint=False)
    return radius * np.stack([np.sin(turn), -np.cos(turn)], axis=1)


def _shapes() -> dict[str, tuple[np.ndarray, ...]]:
    """Outlines in the box [-1, 1]^2, y down; a second outline is a hole."""
    spikes = _circle(1.0, 10) * np.where(np.arange(10) % 2, 0.45, 1.0)[:, None]
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    heart = np.stack(
        [
            np.sin(t) ** 3,
            -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
            / 15
            - 0.12,
        ],
        axis=1,
    )
    a, b = 0.36, 1.0
    cross = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
    cross += [(-x, -y) for x, y in cross]
    arrow = [(-1, -0.3), (0.05, -0.3), (0.05, -0.85), (1, 0)]
    arrow += [(x, -y) for x, y in reversed(arrow[:-1])]
    square = [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)]
    outlines = {
        "circle": (_circle(0.95),),
        "square": (square,),
        "triangle": ([(0, -0.95), (1, 0.85), (-1, 0.85)],),
        "star": (spikes * 1.05,),
        "ring": (_circle(0.98), _circle(0.52)),
        "cross": (cross,),
        "heart": (heart,),
        "arrow": (arrow,),
    }
    return {k: tuple(np.asarray(o, float) for o in v) for k, v in outlines.items()}


SHAPES = _shapes()


@dataclasses.dataclass(frozen=True)
class Ground:
    """The ground under the things.

    `frame` places its pattern: direction in radians, waves in radians per pixel, and
    the phases along and across.
    """

    kind: str
    colour: str
    frame: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    @property
    def words(self) -> str:
        return f"{self.kind} {self.colour} ground"


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object: its three names and its place, in pixels."""

    shape: str
    colour: str
    size: str
    centre: tuple[float, float]
    radius: float
    angle: float

    @property
    def phrase(self) -> str:
        return _with_article(f"{self.size} {self.colour} {self.shape}".strip())

    def outlines(self) -> list[np.ndarray]:
        """Polygons in pixels, float [n, 2]: the outline, then its hole if any."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        turn = np.array([[c, s], [-s, c]])
        return [o @ turn * self.radius + self.centre for o in SHAPES[self.shape]]

    def box(self) -> np.ndarray:
        """The drawn extent, float [4] = x1, y1, x2, y2 in pixels."""
        outline = self.outlines()[0]
        return np.concatenate([outline.min(0), outline.max(0)])


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: the photograph, uint8 [64, 64, 3].
        clean: the rendering before the camera, uint8 [64, 64, 3].
        caption: one English sentence, in one of several forms.
        description: the sentence of a captioner: the things from left to right.
        other_caption: the sentence of a scene that differs in one detail.
        phrases: (phrase, (start, end)) for each noun phrase of the caption, the
            ground's included, in reading order.
        objects: (phrase, (start, end), box) for each thing in reading order; box
            is x1, y1, x2, y2 in [0, 1].
        layout: the input of a generator, int16 [4, 7]. Row 0 is the ground: its
            frame in 1/4096, kind, colour. Rows 1-3 are things: box in 1/64 px, shape,
            colour, size; unused rows are -1.
    """

    image: np.ndarray
    clean: np.ndarray
    caption: str
    description: str
    other_caption: str
    phrases: list
    objects: list
    layout: np.ndarray


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draws one scene of the world's distribution."""
    ground = Ground(*(str(rng.choice(o)) for o in (GROUNDS, list(COLOURS))))
    things = _place(ground, rng)
    frame = (
        rng.uniform(0, math.pi),
        2 * math.pi / rng.uniform(9, 13),
        rng.uniform(0, 2 * math.pi),
        rng.uniform(0, 2 * math.pi),
    )
    ground = dataclasses.replace(ground, frame=frame)
    clean = to_uint8(_render(ground, things, rng))
    form = int(rng.integers(3))
    caption, spans = _sentence(ground, things, form)
    from_left = sorted(things, key=lambda thing: thing.centre)
    other_caption, _ = _sentence(*_change_one_detail(ground, things, rng), form)
    objects = [
        (t.phrase, spans[i], tuple(np.round(t.box() / SIDE, 5).tolist()))
        for i, t in enumerate(things)
    ]
    ground_span = spans[len(things)]
    phrases = [(caption[slice(*s)], s) for s in sorted([*spans[:-1], ground_span])]
    return Scene(
        image=photograph(clean, rng),
        clean=clean,
        caption=caption,
        description=_sentence(ground, from_left, form=0)[0],
        other_caption=other_caption,
        phrases=phrases,
        objects=sorted(objects, key=lambda o: o[1]),
        layout=_layout(ground, things),
    )


def all_phrases() -> list[str]:
    """Every phrase a thing can have."""
    at = {"centre": (0.0, 0.0), "radius": 1.0, "angle": 0.0}
    return [Thing(s, c, z, **at).phrase for z in SIZES for c in COLOURS for s in SHAPES]


def names_thing(phrase: str) -> bool:
    """Whether a phrase names a thing of this world, by colour and shape."""
    words = phrase.split()
    return len(words) > 2 and words[-1] in SHAPES and words[-2] in COLOURS


def names_in(phrase: str) -> tuple[int, int, int]:
    """Returns the numbers of shape, colour and size that a thing's phrase names."""
    words = phrase.split()
    return (
        list(SHAPES).index(words[-1]),
        list(COLOURS).index(words[-2]),
        list(SIZES).index(words[1] if words[1] in SIZES else ""),
    )


def _place(ground: Ground, rng: np.random.Generator) -> list[Thing]:
    """Things that do not touch; no two share both colour and shape."""
    if rng.random() < EMPTY_SHARE:
        return []
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.4, 0.3]))
    while True:
        things: list[Thing] = []
        for _ in range(count):
            size = str(rng.choice(list(SIZES)))
            radius = float(rng.uniform(*SIZES[size]))
            thing = Thing(
                shape=str(rng.choice(list(SHAPES))),
                colour=str(rng.choice([c for c in COLOURS if c != ground.colour])),
                size=size,
                centre=(0.0, 0.0),
                radius=radius,
                angle=float(rng.uniform(-0.25, 0.25)),
            )
            # It may move, and keeps its size: or most things would be small.
            for centre in rng.uniform(radius, SIDE - radius, (10, 2)).tolist():
                placed = dataclasses.replace(thing, centre=tuple(centre))
                if _fits(placed, things):
                    things.append(placed)
                    break
        if len(things) == count:
            return things


def _fits(thing: Thing, others: list[Thing]) -> bool:
    box = thing.box()
    apart = all(
        (box[:2] > other.box()[2:] + 2).any() or (box[2:] < other.box()[:2] - 2).any()
        for other in others
    )
    named = {(t.shape, t.colour) for t in others}
    inside = box.min() >= 1 and box.max() <= SIDE - 1
    return inside and apart and (thing.shape, thing.colour) not in named


def _render(
    ground: Ground, things: list[Thing], rng: np.random.Generator
) -> np.ndarray:
    """Light from the upper left: textured ground, soft shadows, shaded things."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE - 0.5
    image = _texture(ground, rng)
    image = image * (1 - 0.15 * (x + y))[..., None]
    for thing in things:
        cover = _coverage(thing)
        shadow = np.roll(blur(cover, 1.6), (2, 2), axis=(0, 1))[..., None]
        image = image * (1 - 0.45 * shadow)
        across = (x + y) * SIDE / (2 * thing.radius)
        across = across - (sum(thing.centre) - SIDE) / (2 * thing.radius)
        inner = blur(cover, 1.2)
        shade = 1.0 - 0.22 * across - 0.35 * (1 - inner) * 2 * cover
        colour = np.array(COLOURS[thing.colour]) + rng.normal(0, 0.025, 3)
        gloss = 0.16 * np.clip(-across, 0, 1)[..., None] ** 2
        body = np.clip(colour * shade[..., None] + gloss, 0, 1)
        image = image + cover[..., None] * (body - image)
    return image


def _texture(ground: Ground, rng: np.random.Generator) -> np.ndarray:
    """Two shades of the ground's colour mixed by the pattern of its kind."""
    turn, wave, phase_u, phase_v = ground.frame
    y, x = np.mgrid[0:SIDE, 0:SIDE].astype(float)
    c, s = wave * math.cos(turn), wave * math.sin(turn)
    u, v = c * x + s * y + phase_u, c * y - s * x + phase_v
    if ground.kind == "striped":
        mix = np.clip(2 * np.sin(u), -1, 1)
    elif ground.kind == "checkered":
        mix = np.clip(4 * np.sin(u * 0.7) * np.sin(v * 0.7), -1, 1)
    elif ground.kind == "dotted":
        mix = np.clip(4 * (np.cos(u) + np.cos(v)) - 4, -1, 1)
    elif ground.kind == "wavy":
        mix = np.clip(2 * np.sin(u + 1.3 * np.sin(v * 0.6)), -1, 1)
    else:
        mix = np.zeros((SIDE, SIDE))
    base = np.array(COLOURS[ground.colour]) + rng.normal(0, 0.02, 3)
    base = 0.72 * base + 0.28 * base.mean()  # grounds are duller than things
    contrast = rng.uniform(0.09, 0.13)
    return np.clip(base, 0.14, 0.86) + contrast * mix[..., None]


def _coverage(thing: Thing) -> np.ndarray:
    """The antialiased mask, float [64, 64] in [0, 1]."""
    canvas = Image.new("L", (SIDE * SUPERSAMPLE,) * 2)
    draw = ImageDraw.Draw(canvas)
    for fill, outline in zip((255, 0), thing.outlines(), strict=False):
        draw.polygon([tuple(p) for p in (outline * SUPERSAMPLE).tolist()], fill=fill)
    return np.asarray(canvas.reduce(SUPERSAMPLE), np.float32) / 255


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _sentence(
    ground: Ground, things: list[Thing], form: int
) -> tuple[str, list[tuple[int, int]]]:
    """The caption, and the spans of the things' phrases and then of the ground's."""
    last = len(things)
    if not things:
        form = 3
    phrases = [t.phrase for t in things] + [
        _with_article(ground.words if things else f"empty {ground.words}")
    ]
    if form == 0:
        parts = [*_listed(range(last)), " on ", last]
    elif form == 1:
        parts = [last, " with ", *_listed(range(last))]
    elif form == 2 and last == 1:
        parts = [0, f" {_where(things[0])} of ", last]
    elif form == 2:
        relation = f" {_relation(things[0], things[1])} "
        more = [" beside ", *_listed(range(2, last))] if last > 2 else []
        parts = [0, relation, 1, *more, " on ", last]
    else:
        parts = [last]
    caption, spans = "", {}
    for part in parts:
        words = part if isinstance(part, str) else phrases[part]
        if not isinstance(part, str):
            spans[part] = (len(caption), len(caption) + len(words))
        caption += words
    return caption, [spans[i] for i in range(last + 1)]


def _listed(indices: range) -> list[int | str]:
    """0, 1, 2 -> [0, ", ", 1, " and ", 2]."""
    parts: list[int | str] = []
    for place, index in enumerate(indices):
        if place:
            parts.append(" and " if place == len(indices) - 1 else ", ")
        parts.append(index)
    return parts


def _where(thing: Thing) -> str:
    x, y = thing.centre
    row = "top" if y < SIDE * 0.4 else "bottom" if y > SIDE * 0.6 else ""
    column = "left" if x < SIDE * 0.4 else "right" if x > SIDE * 0.6 else ""
    place = f"{row} {column}".strip()
    return f"at the {place}" if place else "in the middle"


def _relation(a: Thing, b: Thing) -> str:
    dx, dy = (p - q for p, q in zip(a.centre, b.centre, strict=True))
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def _change_one_detail(
    ground: Ground, things: list[Thing], rng: np.random.Generator
) -> tuple[Ground, list[Thing]]:
    """A scene whose sentence is nearly right: the contrast CLIP learns most from."""
    if not things or rng.random() < 0.15:
        names, field = (GROUNDS, "kind") if rng.random() < 0.5 else (COLOURS, "colour")
        other = str(rng.choice([n for n in names if n != getattr(ground, field)]))
        return dataclasses.replace(ground, **{field: other}), things
    field, names = [("shape", SHAPES), ("colour", COLOURS), ("size", SIZES)][
        int(rng.choice(3, p=[0.55, 0.25, 0.2]))
    ]
    i = int(rng.integers(len(things)))
    other = str(rng.choice([n for n in names if n != getattr(things[i], field)]))
    changed = dataclasses.replace(things[i], **{field: other})
    return ground, [*things[:i], changed, *things[i + 1 :]]


def _layout(ground: Ground, things: list[Thing]) -> np.ndarray:
    rows = np.full((1 + MAX_THINGS, 7), -1, np.int16)
    rows[0, :4] = np.round(np.array(ground.frame) * FRAME_UNIT)
    rows[0, 4:6] = GROUNDS.index(ground.kind), list(COLOURS).index(ground.colour)
    for row, thing in zip(rows[1:], things, strict=False):
        row[:4] = np.round(thing.box() * SIDE)
        row[4] = list(SHAPES).index(thing.shape)
        row[5] = list(COLOURS).index(thing.colour)
        row[6] = list(SIZES).index(thing.size)
    return rows
