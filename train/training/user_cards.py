"""The published models of an installed package, in a folder of the user's that can be written to.

An installed package may belong to another user, and its files are its installer's. So commands that write to the cards,
such as the export of ONNX files, work on copies in the user's cache folder. Nothing here is used in a checkout.
"""

import filecmp
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

USER_CARDS = user_cache_path("deep-image-zoo") / "model_cards"


def refresh(packaged: Path, folder: Path) -> None:
    """Bring the cards in `folder` up to date with those of the package.

    A card that differs is replaced as a whole: ONNX files that were built from its older weights go with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        for card in sorted(packaged.glob("*/README.md")):
            _refresh(card.parent, folder / card.parent.name)


def _refresh(card: Path, copy: Path) -> None:
    if all(_same(file, copy / file.name) for file in card.iterdir()):
        return
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".copying-") as temporary:
        fresh = Path(temporary) / copy.name
        fresh.mkdir()
        for file in card.iterdir():
            if file.suffix == ".safetensors":
                _link(file, fresh / file.name)
            else:  # copied: who edits one in place must not edit the package's
                shutil.copyfile(file, fresh / file.name)
        if copy.exists():
            copy.replace(Path(temporary) / "replaced")
        fresh.replace(copy)


def _same(file: Path, copy: Path) -> bool:
    if not copy.is_file() or file.stat().st_size != copy.stat().st_size:
        return False
    # The digest of the weights is in metrics.json.
    return file.suffix == ".safetensors" or filecmp.cmp(file, copy, shallow=False)


def _link(file: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that is not possible, as on another disk."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
