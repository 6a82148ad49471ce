"""Networks as tables: layer, output and parameters."""

from collections.abc import Sequence

from train.cards.rendering import thousands
from train.paper.architecture import layers
from train.paper.architecture.layers import Layer, Network
from zoo.catalog import NETWORKS

Table = list[list[str]]


def one(network: Network) -> Table:
    """Return a row for each layer, with the name of its module, and one with all parameters."""
    rows = [[layer.name, *_cells(layer)] for layer in network.layers]
    return [["Name", "Layer", "Output", "Parameters"], *rows, ["", "all", "", thousands(network.parameters)]]


def beside(vanilla: Network, improved: Network) -> Table:
    """Return a row for each layer of a vanilla network beside its improved form, what differs in bold."""
    head = [cell for one in (vanilla, improved) for cell in (NETWORKS[one.name].title, "Output", "Parameters")]
    rows = []
    for left, right, changed in layers.aligned(vanilla, improved):
        cells = _cells(right)
        rows.append([*_cells(left), *(f"**{cell}**" if changed and cell else cell for cell in cells)])
    total = ["all", "", thousands(vanilla.parameters), "all", "", thousands(improved.parameters)]
    return [head, *rows, total]


def plain(table: Sequence[Sequence[str]]) -> str:
    """Format a table for a terminal, its columns aligned, the last one to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(row: Sequence[str]) -> str:
        *most, last = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        return "  ".join([*most, last.strip().rjust(widths[-1])])

    return "\n".join(map(line, table))


def _cells(layer: Layer | None) -> list[str]:
    if layer is None:
        return ["", "", ""]
    return [layer.text, "x".join(map(str, layer.shape)), thousands(layer.parameters) if layer.parameters else ""]
