"""The arena: this server beside Triton, MLServer, BentoML, LitServe, Ray Serve, a plain FastAPI file and a bare loop.

`pip install -e ".[serve,grpc,bench]"`, `apt-get install wrk nghttp2-client`, then

    python benchmarks/serving.py --install              # environments of the peers, in runs/arena; what fails is named
    python benchmarks/serving.py --turns 3 --seconds 10

All run one after another on one machine, on all its cores, with the same ONNX file, ONNX Runtime and PNG, up to 32
images in a run, and the same clients: wrk for HTTP, h2load for gRPC, with one thread each, on the same cores. The bare
loop decodes the PNG and calls `session.run` in one process: it is the upper limit, at batch 1 for one connection and at
batch 32 for many. Each server must return the bare loop's class before it is measured, and warms up for two seconds.
Then it gets one PNG per request on one connection and on many, and requests of 32 images on four. Responses other
than 200 and calls without a message are counted as failed. Core-hours are those of the server's processes alone. Of
this server, the app's calls are measured too: in two requests (/call), and in one (/run).
"""

import argparse
import importlib.util
import json
import platform
import shutil
import sys
import tempfile
from pathlib import Path

from arena import measuring, table
from arena.peers import BATCH, OURS, Peer, install, installed, peers, python_of
from PIL import Image

from serve.engine.models import FILES
from serve.engine.processor import usable_cores

CLIENTS = {"wrk": "wrk", "h2load": "nghttp2-client"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=measuring.ROOT / "model_cards" / "improved_resnet18.cifar10", metavar="FOLDER"
    )
    parser.add_argument("--precision", choices=list(FILES), default="int8")
    parser.add_argument("--seconds", type=int, default=10, help="seconds per measurement")
    parser.add_argument("--turns", type=int, default=3, help="number of times that everything is measured")
    parser.add_argument("--connections", type=int, default=64)
    names = list(peers(""))
    parser.add_argument("--peers", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--install", action="store_true", help="make the peers' environments, and measure nothing")
    parser.add_argument("--folder", type=Path, default=measuring.ROOT / "runs" / "arena", help="of the environments")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    return parser.parse_args()


def present(chosen: dict[str, Peer], folder: Path) -> dict[str, Peer]:
    """Return the peers that are installed, and name the others."""
    found = {}
    for name, peer in chosen.items():
        if peer.module and not importlib.util.find_spec(peer.module):
            print(f'{name} is left out: {peer.module} is not installed; pip install -e ".[serve,grpc,bench]"')
        elif not installed(peer, folder):
            print(f"{name} is left out: not installed; python benchmarks/serving.py --install")
        else:
            found[name] = peer
    return found


def turn(chosen: dict[str, Peer], setting: measuring.Setting, bare: str) -> table.Turn:
    """Measure everything once. A peer that fails is named and left out of the turn."""
    row, best = measuring.bare_loop(setting)
    rows = {bare: row}
    for name, peer in chosen.items():
        try:
            rows[name] = measuring.measure(name, peer, setting, best)
            print(f"{name}: {rows[name]['many']:.0f} requests/s", file=sys.stderr)
        except measuring.PeerError as error:
            print(f"{name} is left out: {error}")
    table.ratios(rows, bare)
    return rows


def main() -> None:
    given = arguments()
    chosen = {name: peer for name, peer in peers(given.model.name).items() if name in given.peers}
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = given.folder.resolve()
    if given.install:
        for name, peer in chosen.items():
            failure = install(peer, folder)
            print(f"{name}: {f'not installed: {failure}' if failure else python_of(peer, folder)}", flush=True)
        return
    file = given.model / FILES[given.precision]
    if not file.is_file():
        raise SystemExit(f"{file} does not exist; build it with: python train/export.py {given.model}")
    for command, package in CLIENTS.items():
        if not shutil.which(command):
            raise SystemExit(f"{command} is not installed; apt-get install {package}")
    chosen = present(chosen, folder)
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "models" / given.model.name / file.name
        for copy in (model, model.parents[1] / "second" / file.name):  # our server serves a whole folder
            copy.parent.mkdir(parents=True)
            copy.symlink_to(file.resolve())
        image = Path(temporary) / "image.png"
        Image.effect_mandelbrot((32, 32), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(image)
        setting = measuring.Setting(model, image, given.precision, given.seconds, given.connections, folder)
        size = image.stat().st_size
        bare = table.limit(BATCH)
        turns = [turn(chosen, setting, bare) for _ in range(given.turns)]
    # A peer that failed once would have a median of fewer turns.
    turns = [{name: row for name, row in rows.items() if all(name in other for other in turns)} for rows in turns]
    machine = f"{platform.machine()}, {usable_cores()} cores"
    times = f"{given.seconds:g} s per measurement, median of {given.turns} turns"
    print(f"\n{given.model.name}, {given.precision}; {machine}; {size} bytes of PNG; {times}\n")
    print(table.tables(turns, given.connections, BATCH))
    if behind := table.better(turns, bare):
        print(f"\nWhere {OURS} is not first:\n")
        print("\n".join(f"- {line}" for line in behind))
    if given.json:
        given.json.write_text(json.dumps(turns, indent=1))


if __name__ == "__main__":
    main()
