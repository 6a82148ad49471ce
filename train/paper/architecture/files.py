"""The drawings as files."""

from pathlib import Path

from train.files import write_text
from train.paper.architecture import drawings, layers
from train.paper.architecture.layers import Network
from zoo.catalog import NETWORKS


def write(network: Network, folder: Path) -> list[Path]:
    """Draw a network beside its counterpart, and its blocks; return the files.

    Args:
        network: vanilla or improved; one without a counterpart is drawn alone.
        folder: gets `FAMILY.svg` and, where the network is made of blocks, `FAMILY-block.svg`.

    Raises:
        ArchitectureError: see `layers.network`.
    """
    other = layers.counterpart(network.name)
    if other is None:
        family, drawn = network.name, drawings.network(network)
    else:
        family = network.name.partition("_")[2]
        pair = [network, layers.network(other, network.input[1], network.input[0])]
        improved, vanilla = sorted(pair, key=lambda one: one.name)
        drawn = drawings.beside(vanilla, improved)
    contents = {f"{family}.svg": drawn}
    if blocks := layers.blocks(network):
        title = f"The block of {NETWORKS[network.name].title}"
        contents[f"{family}-block.svg"] = drawings.blocks(blocks, title)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_text(folder / name, content)
    return [folder / name for name in contents]
