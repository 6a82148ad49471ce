"""Which models are served where no folder is named."""

from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parents[1]
PACKAGED_CARDS = PACKAGES / "zoo" / "model_cards"


def user_models() -> Path:
    """Return the user's folder with the published models of an installed package and their ONNX files.

    The package itself holds no ONNX files. They are built there by `train`, which knows the same path: a test compares
    them.
    """
    # Imported here: without the extra `serve`, the command still has to say so.
    from platformdirs import user_cache_path

    return user_cache_path("deep-image-zoo") / "model_cards"


def default_models() -> Path:
    """Return `model_cards` of the working directory, else of the checkout, else the user's for an installed package."""
    here, checkout = Path("model_cards"), PACKAGES / "model_cards"
    if here.is_dir():
        return here
    if checkout.is_dir():
        return checkout
    return user_models() if PACKAGED_CARDS.is_dir() else here


def with_models(given: dict[str, Any]) -> dict[str, Any]:
    """Add the folder of models to settings that name none."""
    return given if "models" in given else {**given, "models": default_models()}
