"""SVG by hand: shapes and text in colours that follow the reader's light or dark mode.

The background is drawn too, so that a viewer without dark mode shows the light colours on white.
"""

from xml.sax.saxutils import escape

# By kind of layer: fill and border in light mode, then in dark mode.
KINDS = {
    "convolution": ("#ddf4ff", "#54aeff", "#0c2d4d", "#388bfd"),
    "linear": ("#dafbe1", "#4ac26b", "#0b3018", "#3fb950"),
    "pool": ("#fff8c5", "#d4a72c", "#3a2d05", "#d29922"),
    "norm": ("#fff1e5", "#fb8f44", "#3d1f0a", "#db6d28"),
    "activation": ("#ffeff7", "#ff80c8", "#3d1230", "#db61a2"),
    "dropout": ("#f6f8fa", "#8c959f", "#21262d", "#8b949e"),
    "block": ("#fbefff", "#c297ff", "#2b1650", "#a371f7"),
    "join": ("#eaeef2", "#8c959f", "#21262d", "#8b949e"),
    "other": ("#ffffff", "#8c959f", "#0d1117", "#8b949e"),
}
FONT = "-apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', Helvetica, Arial, sans-serif"
LIGHT = {"page": "#ffffff", "ink": "#1f2328", "muted": "#59636e", "line": "#8c959f", "mark": "#cf222e"}
DARK = {"page": "#0d1117", "ink": "#e6edf3", "muted": "#9198a1", "line": "#6e7681", "mark": "#ff7b72"}


def _style() -> str:
    def rules(colours: dict[str, str], dark: bool) -> list[str]:
        of_kinds = [
            f".{kind}{{fill:{pair[2 * dark]};stroke:{pair[2 * dark + 1]}}}" for kind, pair in sorted(KINDS.items())
        ]
        return [
            f".page{{fill:{colours['page']}}}",
            f"text{{fill:{colours['ink']}}}",
            f".muted{{fill:{colours['muted']}}}",
            f".line,.tip{{stroke:{colours['line']}}}",
            f".tip{{fill:{colours['line']}}}",
            f".mark{{fill:{colours['mark']}}}",
            f".changed{{stroke:{colours['mark']};stroke-width:2}}",
            *of_kinds,
        ]

    # `.changed` is to win over the kinds.
    light, dark = (sorted(rules(colours, i), key=lambda rule: rule.startswith(".changed")) for colours, i in
                   ((LIGHT, False), (DARK, True)))  # fmt: skip
    shared = [f"text{{font-family:{FONT}}}", ".line{fill:none;stroke-width:1.3}", ".bold{font-weight:600}"]
    return "".join([*shared, *light, "@media(prefers-color-scheme:dark){", *dark, "}"])


def document(width: float, height: float, title: str, content: list[str]) -> str:
    """Return an SVG document with a background, a title for screen readers, and its content."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_style()}</style>",
            f'<rect class="page" width="{width:g}" height="{height:g}" rx="8"/>',
            *content,
            "</svg>\n",
        ]
    )


def box(x: float, y: float, width: float, height: float, kind: str, changed: bool = False) -> str:
    """Return a box in the colours of a kind of layer; a changed one has a thick border and a mark in its corner."""
    shape = (
        f'<rect class="{kind}{" changed" if changed else ""}" x="{x:g}" y="{y:g}" width="{width:g}" '
        f'height="{height:g}" rx="5"{DASHES if kind == "dropout" and not changed else ""}/>'
    )
    # Not by colour alone.
    return shape + (f'<path class="mark" d="M{x - 9:g} {y + height / 2 - 5:g}l7 5l-7 5z"/>' if changed else "")


DASHES = ' stroke-dasharray="4 3"'


def text(x: float, y: float, words: str, size: float = 12, anchor: str = "middle", style: str = "") -> str:
    """Return a line of text. `style` names classes: "bold", "muted"."""
    of_class = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{of_class}>{escape(words)}</text>'


def arrow(*points: tuple[float, float]) -> str:
    """Return a line through points, with a tip at the last, which is reached from above."""
    x, y = points[-1]
    way = "L".join(f"{px:g} {py:g}" for px, py in [*points[:-1], (x, y - 4)])
    return f'<path class="line" d="M{way}"/><path class="tip" d="M{x - 3:g} {y - 5:g}h6l-3 5z"/>'
