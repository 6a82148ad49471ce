"""Show the architecture of a network: `python train/architecture.py MODEL` prints its layers and draws them.

The table has each layer's output and parameters, read off the code. The drawing, an SVG file, shows the vanilla network
beside its improved form with what differs marked; a second one shows the block that the network is made of.
"""

import argparse
import sys
from pathlib import Path

from train.errors import exit_status, program
from train.paper.architecture import files, layers, tables
from zoo.catalog import NETWORKS


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("architecture.py"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help=f"one of {', '.join(NETWORKS)}")
    parser.add_argument("--input-size", type=int, metavar="PIXELS", help="side of the input (default: the network's)")
    parser.add_argument("--in-chans", type=int, default=3, help="channels of the input: 1 for MNIST (default: 3)")
    parser.add_argument(
        "--output-dir", type=Path, default=Path("runs/architecture"), help="for the drawings (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    return exit_status("architecture.py", lambda: show(args.model, args.input_size, args.in_chans, args.output_dir))


def show(name: str, side: int | None, in_chans: int, folder: Path) -> int:
    """Print the table of a network and write its drawings."""
    network = layers.network(name, side, in_chans)
    print(tables.plain(tables.one(network)))
    for file in files.write(network, folder):
        print(f"Wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
