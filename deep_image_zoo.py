"""The command `deep-image-zoo`: one name for all commands of the project, wherever it is installed.

It imports only what the chosen command needs: a server without torch has it too.
"""

import importlib
import sys
from importlib.metadata import version
from importlib.util import find_spec

NAME = "deep-image-zoo"

# Their modules, each with a `main(argv)` that returns the exit status, and what they do.
COMMANDS = {
    "serve": ("serve.__main__", "serve the models over HTTP, with an app"),
    "fit": ("train.fit", "train a model; on several GPUs: accelerate launch -m train.fit"),
    "publish": ("train.publish", "make the model card folder of a finished run"),
    "export": ("train.export", "build the ONNX files of published models"),
    "evaluate": ("train.evaluate", "measure a model on its test split"),
    "verify": ("train.verify", "check every number of the model cards"),
    "report": ("train.report", "write the paper's tables and figures beside ours"),
}

# The extra that each package of commands needs, and a module that shows whether it is installed.
EXTRAS = {"serve": "fastapi", "train": "accelerate"}


def usage() -> str:
    """Return the text of `--help`."""
    width = max(map(len, COMMANDS))
    return "\n".join(
        [
            f"usage: {NAME} [--help] [--version] COMMAND ...",
            "",
            "VGG16, ResNet18 and GoogLeNet as pretrained timm models: train, export, serve.",
            "",
            *(f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()),
            "",
            f"{NAME} COMMAND --help describes a command.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run a command of the project; return its exit status: 2 for a command that is unknown or not installed."""
    words = sys.argv[1:] if argv is None else argv
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(usage())
        return 0
    if first == "--version":
        print(f"{NAME} {version(NAME)}")
        return 0
    if first not in COMMANDS:
        said = f"unknown command {first!r}" if first else "no command"
        print(f"{NAME}: {said}: valid are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[first]
    extra = module.partition(".")[0]
    if find_spec(EXTRAS[extra]) is None:
        print(f"{NAME} {first} needs more packages: pip install '{NAME}[{extra}]'", file=sys.stderr)
        return 2
    status: int = importlib.import_module(module).main(words[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
