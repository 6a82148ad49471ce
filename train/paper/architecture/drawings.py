"""Networks and blocks as drawings: a box for each layer, a vanilla network beside its improved form."""

from collections.abc import Sequence

from train.cards.rendering import thousands
from train.paper.architecture import layers, svg
from train.paper.architecture.layers import Block, Layer, Network
from zoo.catalog import NETWORKS

# In pixels.
MARGIN, GAP = 16, 14
ROW, BETWEEN = 24, 7  # of a whole network
BOX, SHAPE = 252, 96  # widths of a box and of the shape beside it
LANE, HIGH, STEP = 152, 42, 20  # of a block: width of a branch, height of a box, distance between two

SHORT = {"convolution": "conv", "adaptive average pool": "adaptive avg pool", "BatchNorm": "BN"}


def short(text: str) -> str:
    """Abbreviate a layer's words for a box."""
    for long, abbreviated in SHORT.items():
        text = text.replace(long, abbreviated)
    return text


def dimensions(shape: Sequence[int]) -> str:
    """Format a shape as in "64 x 8 x 8", with multiplication signs."""
    return " \N{MULTIPLICATION SIGN} ".join(map(str, shape))


def network(shown: Network) -> str:
    """Draw a network on its own."""
    return _columns([shown], [(layer, None, False) for layer in shown.layers])


def beside(vanilla: Network, improved: Network) -> str:
    """Draw a vanilla network beside its improved form, with what differs marked."""
    return _columns([vanilla, improved], layers.aligned(vanilla, improved))


def _columns(networks: list[Network], rows: Sequence[tuple[Layer | None, Layer | None, bool]]) -> str:
    width = 2 * MARGIN + len(networks) * (BOX + SHAPE) + (len(networks) - 1) * 2 * GAP
    top = MARGIN + 62
    content = []
    for column, shown in enumerate(networks):
        x = MARGIN + column * (BOX + SHAPE + 2 * GAP)
        middle = x + BOX / 2
        title = NETWORKS[shown.name].title
        content.append(svg.text(middle, MARGIN + 14, title, 15, style="bold"))
        content.append(svg.text(middle, MARGIN + 31, f"{thousands(shown.parameters)} parameters", style="muted"))
        content.append(svg.text(middle, MARGIN + 48, f"input {dimensions(shown.input)}", style="muted"))
        before = top - BETWEEN
        for i, row in enumerate(rows):
            layer, y = row[:2][column], top + i * (ROW + BETWEEN)
            if layer is None:
                continue
            content.append(svg.arrow((middle, before), (middle, y)))
            changed = column == 1 and row[2]
            content.append(svg.box(x, y, BOX, ROW, layer.kind, changed))
            names = (layer.name,) if layer.kind == "block" else ()
            words = short(" \N{MIDDLE DOT} ".join((*layer.parts, *names)))
            content.append(svg.text(middle, y + 16.5, words, style="bold" if changed else ""))
            content.append(svg.text(x + BOX + 8, y + 16.5, dimensions(layer.shape), 11, "start", "muted"))
            before = y + ROW
    height = top + len(rows) * (ROW + BETWEEN) - BETWEEN + MARGIN
    if len(networks) > 1 and any(changed for *_, changed in rows):
        content.append(svg.box(MARGIN + 10, height, 18, 12, "other", True))
        told = "differs from the vanilla network"
        content.append(svg.text(MARGIN + 36, height + 10, told, 11, "start", "muted"))
        height += 12 + MARGIN
    return svg.document(
        width, height, " beside ".join(NETWORKS[shown.name].title for shown in networks) + ": layers", content
    )


def blocks(shown: Sequence[Block], title: str) -> str:
    """Draw blocks side by side, each with its branches, the larger one of two branches with its layers."""
    content, x, height = [], float(MARGIN), 0.0
    for block in shown:
        drawn, width, tall = _block(block, x)
        content += drawn
        x, height = x + width + 2 * GAP, max(height, tall)
    return svg.document(x - 2 * GAP + MARGIN, height + MARGIN, title, content)


def _block(block: Block, left: float) -> tuple[list[str], float, float]:
    """Draw a block; return its parts, its width and where it ends."""
    content = []
    lanes = len(block.branches)
    width = lanes * LANE + (lanes - 1) * GAP
    middle = left + width / 2
    content.append(svg.text(middle, MARGIN + 12, f"{block.name}: {block.text}", 13, style="bold"))
    content.append(svg.text(middle, MARGIN + 29, f"input {dimensions(block.input)}", style="muted"))
    fork = MARGIN + 46
    content.append(f'<path class="line" d="M{middle:g} {MARGIN + 35:g}V{fork:g}"/>')
    top = fork + STEP
    longest = max(map(len, block.branches))
    joined = top + longest * (HIGH + STEP) + STEP
    wide = min(LANE, width)
    for lane, branch in enumerate(block.branches):
        centre = left + lane * (LANE + GAP) + LANE / 2
        # Each branch ends on the box that joins them, at a place of its own.
        end = middle + (lane - (lanes - 1) / 2) * wide / (lanes + 1)
        way = [(middle, fork), (centre, fork)]
        y = top
        for layer in branch:
            content += [svg.arrow(*way, (centre, y)), *_boxed(layer, centre, y)]
            way, y = [(centre, y + HIGH)], y + HIGH + STEP
        if not branch:
            content.append(svg.text(centre + 6, top + HIGH / 2, "identity", 12, "start", "muted"))
        content.append(svg.arrow(*way, (centre, joined - STEP), (end, joined - STEP), (end, joined)))
    y = joined
    for layer in (block.join, *block.tail):
        if layer is not block.join:
            content.append(svg.arrow((middle, y - STEP), (middle, y)))
        content += _boxed(layer, middle, y)
        y += HIGH + STEP
    content.append(svg.arrow((middle, y - STEP), (middle, y - 2)))
    return content, width, y


def _boxed(layer: Layer, centre: float, y: float) -> list[str]:
    first, *others = (short(part) for part in layer.parts)
    first, comma, stride = first.partition(", stride")
    others = [f"stride{stride}", *others] if comma else others
    second = " \N{MIDDLE DOT} ".join([*others, dimensions(layer.shape)])
    return [
        svg.box(centre - LANE / 2, y, LANE, HIGH, layer.kind),
        svg.text(centre, y + 18, first, style="bold"),
        svg.text(centre, y + 33, second, 10.5, style="muted"),
    ]
