"""Cards for readers that know nothing of this project's compact weights, and on the Hugging Face Hub.

transformers, Accelerate and others take a `model.safetensors` for a whole state dict: of the compact form they would
load the few tensors whose names they know, and leave the rest random. So what leaves the project is expanded, and
`compact.MODEL_TYPE` makes transformers refuse the rest.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors.torch import load_file, save_file

import zoo
from train.cards import model_card
from train.cards.compact import for_other_readers
from train.errors import UserError
from train.files import read_json, sha256, write_json, write_text
from train.onnx_export import build
from train.onnx_export.metadata import files, outdated
from zoo.compact import expand


class PushError(UserError):
    """The Hub refuses a repository."""


def write_whole(card: Path, folder: Path, repository: str | None = None) -> None:
    """Write a card with its whole weights in half precision to an empty folder; vectors stay in float32.

    Its ONNX files are left out: they belong to the compact weights, as all accuracies do.

    Args:
        card: the folder of the published model.
        folder: the empty one.
        repository: on the Hub, for the text of the card.
    """
    for file in card.iterdir():
        if file.is_file() and file.suffix not in (".onnx", ".safetensors") and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
    tensors = {
        name: (tensor.half() if tensor.ndim > 1 and tensor.dtype == torch.float32 else tensor).contiguous()
        for name, tensor in expand(load_file(card / "model.safetensors")).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", for_other_readers(read_json(folder / "config.json"), tensors))
    if (folder / "metrics.json").is_file():
        metrics = read_json(folder / "metrics.json")
        metrics["safetensors_sha256"] = sha256(folder / "model.safetensors")
        write_json(folder / "metrics.json", metrics)
        text = model_card.render(card, weights=folder / "model.safetensors", repository=repository)
        write_text(folder / "README.md", text)


def push(card: Path, repository: str) -> str:
    """Create or update a model repository of the Hub with a card, its whole weights and its ONNX files.

    The commit gets the package's version as a tag (`v0.1.0`), which `zoo` downloads; a tag that exists stays where it
    is. The token is that of `hf auth login`, or HF_TOKEN.

    Args:
        card: the folder.
        repository: ORGANISATION/NAME.

    Returns:
        The address of the commit.

    Raises:
        PushError: the name is not valid, or the Hub refuses it.
    """
    if outdated(card):
        build.export(card)
    api = HfApi(library_name="deep-image-zoo", library_version=zoo.__version__)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_whole(card, folder, repository)
        for name in files(card):
            shutil.copyfile(card / name, folder / name)
        try:
            name = api.create_repo(repository, exist_ok=True).repo_id
            commit = api.upload_folder(
                repo_id=name, folder_path=folder, commit_message=f"{card.name} of deep-image-zoo {zoo.__version__}"
            )
            api.create_tag(name, tag=f"v{zoo.__version__}", revision=commit.oid, exist_ok=True)
        except (HfHubHTTPError, HFValidationError) as error:
            raise PushError(f"cannot push to {repository!r}: {str(error).strip().partition(chr(10))[0]}") from error
    return str(commit.commit_url)
