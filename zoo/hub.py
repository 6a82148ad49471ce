"""Weights from the Hugging Face Hub: the repositories of the published models, and a check of what was downloaded."""

import hashlib
import os
import re
from pathlib import Path

from timm.models._hub import download_from_hf

from zoo.catalog import HUB_ORG

FILE = "model.safetensors"


def hub_id(card: str, version: str) -> str | None:
    """Return the Hub repository of a published model; None without one.

    It is pinned to the tag that `train/publish.py --push` gives it: that of this project's version.
    """
    organisation = os.environ.get("ZOO_HUB_ORG", HUB_ORG)
    return f"{organisation}/{card}@v{version}" if organisation else None


def check_download(repository: str) -> None:
    """Download the weights of a repository, unless they are in the Hub's cache, and check their SHA-256.

    The Hub's client compares sizes alone. It names files in its cache after their digest, where the Hub has one; a file
    with other content is removed, so that the next attempt downloads it again.

    Raises:
        RuntimeError: the content is not that of the digest.
    """
    blob = Path(download_from_hf(repository, FILE)).resolve()
    if not re.fullmatch(r"[0-9a-f]{64}", blob.name):
        return
    with blob.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != blob.name:
        blob.unlink()
        raise RuntimeError(
            f"The download of {FILE} from {repository} is damaged: its SHA-256 is {found}, not {blob.name}. It was "
            "removed; try again"
        )
