"""Photos of digits on paper, made from strokes: sheets on tables, ruled paper, pencil, chalk, shadows, perspective.

`drawn_digits.py` measures how many of them the app gets right. The generator that is passed in decides all that varies.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from strokes import Strokes, draw, jitter

AROUND = 0.3  # of the frame's width and height: so much of the sheet is drawn on each side of what the frame shows


@dataclass(frozen=True)
class Kind:
    """A kind of photo.

    Attributes:
        table: `dark`, `light` (lighter than the paper) or `wood`; `any` takes one of them.
        strip: how much of the frame's side the table covers, as a share, from and to.
        sides: on how many sides it shows, from and to.
        ruling: `lined`, `squared` or None.
        pencil: whether a pencil writes, and not a pen.
        perspective: how far the sheet's corners are moved, as a share of the frame's shorter side.
        hand: whether fingers hold the sheet.
    """

    table: str = "any"
    strip: tuple[float, float] = (0.03, 0.25)
    sides: tuple[int, int] = (1, 4)
    ruling: str | None = None
    pencil: bool = False
    perspective: float = 0.02
    hand: bool = False


KINDS = {
    "dark table, 3 %": Kind("dark", (0.03, 0.03)),
    "dark table, 12 %": Kind("dark", (0.12, 0.12)),
    "dark table, 25 %": Kind("dark", (0.25, 0.25)),
    "light table": Kind("light"),
    "wooden table": Kind("wood"),
    "lined paper": Kind(ruling="lined"),
    "squared paper": Kind(ruling="squared"),
    "lined, no table": Kind(sides=(0, 0), ruling="lined"),
    "squared, no table": Kind(sides=(0, 0), ruling="squared"),
    "pencil": Kind(pencil=True),
    "pencil, ruled": Kind(pencil=True, ruling="either"),
    "perspective": Kind(strip=(0.05, 0.2), sides=(4, 4), perspective=0.1),
    "fingers": Kind(hand=True),
}


def photo_of(kind: Kind, strokes: list[Strokes], rng: np.random.Generator) -> Image.Image:
    """Photograph the digits of `strokes`, one beside the other, on a sheet on a table."""
    width, height = [(640, 480), (480, 640), (480, 480)][rng.integers(3)]
    short = min(width, height)
    inside, corners = _place(kind, width, height, rng)
    sheet, tone = _sheet(kind, strokes, inside, (width, height), rng)
    table = _table(kind.table, tone, width, height, rng)
    # The sheet is drawn as it lies in the frame, with a margin; then its corners are moved.
    around = np.array([AROUND * width, AROUND * height])
    flat = np.array([[inside[i], inside[j]] for i, j in ((0, 1), (2, 1), (2, 3), (0, 3))], float) + around
    moved = _homography(np.array(corners), flat)
    over = sheet.transform((width, height), Image.Transform.PERSPECTIVE, moved, Image.Resampling.BICUBIC)
    whole = Image.new("L", sheet.size, 0)
    (x0, y0), (x1, y1) = (tuple(map(round, corner)) for corner in flat[[0, 2]])
    whole.paste(255, (x0, y0, x1, y1))
    covers = whole.transform((width, height), Image.Transform.PERSPECTIVE, moved, Image.Resampling.BICUBIC)
    cover = np.asarray(covers, float)[..., None] / 255
    # A sheet casts a thin shadow on the table.
    rim = np.asarray(covers.filter(ImageFilter.GaussianBlur(rng.uniform(1, 5))), float)[..., None] / 255
    scene = table * (1 - rng.uniform(0, 0.5) * rim) * (1 - cover) + np.asarray(over, float) * cover
    if kind.hand:
        scene = _fingers(scene, np.array(corners), short, rng)
    return _camera(scene, rng)


def _place(
    kind: Kind, width: int, height: int, rng: np.random.Generator
) -> tuple[tuple[float, float, float, float], list[tuple[float, float]]]:
    """Where the sheet lies: its left, top, right and bottom in the frame, and its four corners once moved."""
    shown = rng.permutation(4)[: rng.integers(kind.sides[0], kind.sides[1] + 1)]
    depth = [rng.uniform(*kind.strip) if i in shown else -0.25 for i in range(4)]
    box = (depth[0] * width, depth[1] * height, (1 - depth[2]) * width, (1 - depth[3]) * height)
    amount = kind.perspective * min(width, height)
    corners = []
    for x, y in ((0, 1), (2, 1), (2, 3), (0, 3)):
        # Away from the frame's middle or towards it, but never so far that a strip vanishes.
        dx, dy = rng.uniform(-amount, amount, 2)
        dx *= min(1.0, max(0.5 * abs(depth[x]) * width / max(amount, 1e-9), 0.3))
        dy *= min(1.0, max(0.5 * abs(depth[y]) * height / max(amount, 1e-9), 0.3))
        corners.append((box[x] + dx, box[y] + dy))
    return box, corners


def _homography(source: np.ndarray, target: np.ndarray) -> tuple[float, ...]:
    """Pillow's eight numbers of the perspective that takes four points to four others."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    return tuple(np.linalg.solve(np.array(rows), target.ravel()).tolist())


def _sheet(
    kind: Kind,
    strokes: list[Strokes],
    inside: tuple[float, float, float, float],
    frame: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[Image.Image, float]:
    """The written sheet as it lies in the frame, with the margin AROUND, and its mean tone."""
    width, height = frame
    canvas = round((1 + 2 * AROUND) * width), round((1 + 2 * AROUND) * height)
    dark = kind.table == "light"
    paper = rng.uniform(140, 215 if dark else 245) * (1 + rng.uniform(-0.06, 0.06, 3))
    page = np.ones((canvas[1], canvas[0], 3), np.float32) * paper.astype(np.float32)
    ruling = str(rng.choice(["lined", "squared"])) if kind.ruling == "either" else kind.ruling
    if ruling:
        page *= 1 - _ruling(ruling, *canvas, min(frame), rng)[..., None] * rng.uniform(0.1, 0.35, 3).astype(np.float32)
    left, top = max(inside[0], 0), max(inside[1], 0)
    right, bottom = min(inside[2], width), min(inside[3], height)
    room = np.array([right - left, bottom - top]) * 0.9
    middle = np.array([(left + right) / 2 + AROUND * width, (top + bottom) / 2 + AROUND * height])
    ink = _write(strokes, room, middle, kind, canvas, rng)
    if kind.pencil:
        colour = paper * rng.uniform(0.4, 0.62)
        ink = np.clip(ink * _grain(0.55, 1.2, ink.shape, rng), 0, 1)
    else:
        colour = rng.uniform(10, 90, 3) * min(1.0, paper.mean() / 200)
        if rng.random() < 0.25:  # a red, blue or green pen
            colour[rng.integers(3)] = rng.uniform(110, 190) * min(1.0, paper.mean() / 200)
    page += (np.asarray(colour, np.float32) - page) * ink[..., None]
    return Image.fromarray(page.clip(0, 255).astype(np.uint8)), float(paper.mean())


def _write(
    strokes: list[Strokes],
    room: np.ndarray,
    middle: np.ndarray,
    kind: Kind,
    canvas: tuple[int, int],
    rng: np.random.Generator,
) -> np.ndarray:
    """The ink on a canvas of width and height, float32 [height, width].

    The digits are beside each other, somewhere in the `room` (width and height) around `middle`.
    """
    size = rng.uniform(0.25, 0.75) * room.min() / (1.4 if len(strokes) > 1 else 1)
    width = rng.uniform(0.02, 0.06) * size if kind.pencil else rng.uniform(0.03, 0.11) * size
    angle = np.deg2rad(rng.uniform(-12, 12))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    placed: Strokes = []
    if not strokes:
        return np.zeros(canvas[::-1], np.float32)
    along = 0.0
    for one in strokes:
        points = [path * size for path in jitter(one, rng, 0.012)]
        low, high = np.concatenate(points)[:, 0].min(), np.concatenate(points)[:, 0].max()
        placed += [path + np.array([along - low, 0]) for path in points]
        along += high - low + size * rng.uniform(0.2, 0.5)
    placed = [path @ turn for path in placed]
    ink = np.concatenate(placed)
    low, high = ink.min(0), ink.max(0)
    spare = np.maximum(room - (high - low) - width, 0) / 2
    shift = middle + rng.uniform(-spare, spare) - (low + high) / 2
    page = Image.new("L", canvas)
    # Only the part with ink is drawn, antialiased.
    x, y = np.floor(low + shift - width - 2).astype(int)
    side = int(np.ceil((high - low).max() + 2 * width + 4))
    page.paste(draw(placed, 1.0, shift - [x, y], max(width, 1.2), side, over=2), (int(x), int(y)))
    return np.asarray(page, np.float32) / 255


def _grain(low: float, high: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Rough paper: float32 of `shape` from `low` to `high`."""
    rough = Image.fromarray(rng.integers(0, 256, shape, np.uint8)).filter(ImageFilter.BoxBlur(1))
    return low + (high - low) * np.clip(np.asarray(rough, np.float32) / 85 - 1, 0, 1)


def _ruling(kind: str, width: int, height: int, short: int, rng: np.random.Generator) -> np.ndarray:
    """Lines or squares, float32 [height, width] from 0 to 1."""
    lines = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(lines)
    gap = short * (rng.uniform(0.05, 0.12) if kind == "lined" else rng.uniform(0.03, 0.07))
    thick = max(1, round(short * rng.uniform(0.002, 0.005)))
    for y in np.arange(rng.uniform(0, gap), height, gap):
        pen.line([(0, y), (width, y)], 255, thick)
    if kind == "squared":
        for x in np.arange(rng.uniform(0, gap), width, gap):
            pen.line([(x, 0), (x, height)], 255, thick)
    elif rng.random() < 0.5:  # a margin
        x = rng.uniform(0.28, 0.35) * width
        pen.line([(x, 0), (x, height)], 255, thick)
    return np.asarray(lines, np.float32) / 255


def _table(kind: str, paper: float, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A table top, float [height, width, 3]."""
    if kind == "any":
        kind = str(rng.choice(["dark", "light", "wood"]))
    if kind == "light":
        return np.ones((height, width, 3)) * min(250.0, paper + rng.uniform(20, 60)) * (1 + rng.uniform(-0.03, 0.03, 3))
    if kind == "dark":
        return np.ones((height, width, 3)) * rng.uniform(20, 0.65 * paper) * (1 + rng.uniform(-0.15, 0.15, 3))
    tone = rng.uniform(60, 150) * np.array([1.15, 0.95, rng.uniform(0.55, 0.8)])
    grain = np.zeros((height, width))
    for across in (3, 12, 40):  # long fibres of several widths
        rough = rng.normal(size=(max(2, height // across), max(2, width // (across * 12)))).astype(np.float32)
        grain += np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))
    wood = np.ones((height, width)) + rng.uniform(0.03, 0.09) * grain
    plank = int(rng.uniform(0.12, 0.4) * height)
    for y in range(int(rng.uniform(0, plank)), height, plank):
        wood[y : y + 2] *= 0.5
    if rng.random() < 0.5:
        wood = np.asarray(Image.fromarray(wood.T.astype(np.float32)).resize((width, height)))
    return wood[..., None] * tone


def _fingers(scene: np.ndarray, corners: np.ndarray, short: int, rng: np.random.Generator) -> np.ndarray:
    """A finger or two that come in from outside over an edge of the sheet."""
    height, width = scene.shape[:2]
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    side = rng.integers(4)
    one, two = corners[side].clip(0, [width, height]), corners[(side + 1) % 4].clip(0, [width, height])
    middle = np.array([width / 2, height / 2])
    for _ in range(rng.integers(1, 3)):
        at = one + (two - one) * rng.uniform(0.05, 0.95)
        out = (at - middle) / np.hypot(*(at - middle))
        thick = rng.uniform(0.05, 0.09) * short
        tip = at - out * rng.uniform(0.0, 0.05) * short
        pen.line([tuple(tip), tuple(tip + out * short)], 255, round(thick))
        pen.ellipse([*(tip - thick / 2), *(tip + thick / 2)], 255)
    cover = np.asarray(mask.filter(ImageFilter.GaussianBlur(1)), float)[..., None] / 255
    skin = np.array([1.0, 0.75, 0.62]) * rng.uniform(90, 230)
    return scene * (1 - cover) + skin * cover


def _camera(scene: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """Light from one side, a shadow over a part, blur, noise and JPEG."""
    height, width = scene.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    direction, shadow_direction = rng.uniform(0, 2 * np.pi, 2)
    light = 1 + rng.uniform(0, 0.3) * (np.cos(direction) * x + np.sin(direction) * y)
    across = np.cos(shadow_direction) * x + np.sin(shadow_direction) * y
    edge = np.clip((across - rng.uniform(-1, 1)) / rng.uniform(0.02, 0.2), -50, 50)
    light *= 1 - rng.uniform(0, 0.45) / (1 + np.exp(edge))
    scene = scene * light[..., None] + rng.uniform(0, 5) * rng.standard_normal(scene.shape, np.float32)
    image = Image.fromarray(scene.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    kept = io.BytesIO()
    image.save(kept, "JPEG", quality=int(rng.integers(50, 95)))
    return Image.open(kept)


def full_frame(strokes: list[Strokes], rng: np.random.Generator) -> Image.Image:
    """A digit with a pen on paper that fills the frame."""
    side = 480
    size = rng.uniform(0.25, 0.75) * side
    width = rng.uniform(0.03, 0.12) * size
    lines = jitter(strokes[0], rng, 0.012)
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    lines = [path @ turn for path in lines]
    room = (side - size * 1.1 - width) / 2
    centre = side / 2 + rng.uniform(-room, room, 2)
    ink = np.asarray(draw(lines, size, centre, width, side, over=2), float)[..., None] / 255

    paper = rng.uniform(150, 245) * (1 + rng.uniform(-0.08, 0.08, 3))
    colour = rng.uniform(10, 90, 3) * min(1.0, paper.mean() / 200)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    direction = rng.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * x + np.sin(direction) * y
    light = 1 + rng.uniform(0, 0.3) * slope
    edge = rng.uniform(-1, 1)
    softness = rng.uniform(0.02, 0.2)
    shadow_direction = rng.uniform(0, 2 * np.pi)
    across = np.cos(shadow_direction) * x + np.sin(shadow_direction) * y
    shadow = 1 - rng.uniform(0, 0.45) / (1 + np.exp((across - edge) / softness))
    scene = (paper * (1 - ink) + colour * ink) * (light * shadow)[..., None]
    scene += rng.normal(0, rng.uniform(0, 5), scene.shape)
    picture = Image.fromarray(scene.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5)))
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=int(rng.integers(50, 95)))
    return Image.open(kept)


def blackboard(strokes: list[Strokes], rng: np.random.Generator) -> Image.Image:
    """A digit in chalk on a blackboard that fills the frame."""
    side = 480
    size = rng.uniform(0.25, 0.75) * side
    width = rng.uniform(0.03, 0.1) * size
    room = (side - size * 1.1 - width) / 2
    centre = side / 2 + rng.uniform(-room, room, 2)
    ink = np.asarray(draw(jitter(strokes[0], rng, 0.012), size, centre, width, side, over=2), np.float32) / 255
    ink *= _grain(0.6, 1.0, ink.shape, rng)
    board = rng.uniform(20, 70) * np.array([0.9, rng.uniform(0.95, 1.3), 1.0])
    # What was wiped off before has left clouds.
    clouds = Image.fromarray(rng.uniform(0, 1, (6, 6)).astype(np.float32)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    scene = board + np.asarray(clouds)[..., None] * rng.uniform(0, 25)
    chalk = rng.uniform(170, 240)
    return _camera(scene * (1 - ink[..., None]) + chalk * ink[..., None], rng)


PHOTOS: dict[str, Callable[[list[Strokes], np.random.Generator], Image.Image]] = {
    "photos": full_frame,
    **{name: partial(photo_of, kind) for name, kind in KINDS.items()},
    "chalk on a blackboard": blackboard,
}
