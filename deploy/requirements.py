"""Write the requirements files of a server without torch, from extras in pyproject.toml: serve, grpc and otel.

`python deploy/requirements.py` writes the files beside this one; `--check` only says whether they are up to date. Two
of them differ in the ONNX Runtime alone: both packages install the same module, so an environment must hold one of
them. What gRPC and tracing need is in a third file, as most servers use neither.
"""

import argparse
import re
import sys
import tempfile
import tomllib
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PYPROJECT = FOLDER.parent / "pyproject.toml"
OPTIONAL = ("grpc", "otel")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
HEADER = "# Written by deploy/requirements.py from extras in pyproject.toml: do not edit.\n# {what}\n"
SERVER = """\
#   pip install -r deploy/{name}
#   pip install --no-deps PATH    # PATH: a checkout or a wheel of this project; without its dependency torch
#   python -m serve --models FOLDER
"""


def files(pyproject: str) -> dict[str, str]:
    """Return the texts of the files, by name.

    Args:
        pyproject: The text of pyproject.toml.

    Raises:
        ValueError: If the extras do not name both ONNX Runtimes, or name one with different versions.
    """
    extras: dict[str, list[str]] = tomllib.loads(pyproject)["project"]["optional-dependencies"]
    extra = extras["serve"]
    runtimes = [line for line in extra if name(line) in RUNTIMES]
    versions = {re.sub(r"^[\w-]+", "", line.partition(";")[0]).strip() for line in runtimes}
    if {name(line) for line in runtimes} != set(RUNTIMES) or len(versions) != 1:
        raise ValueError(f"the extras must name {' and '.join(RUNTIMES)} with one range of versions: {runtimes}")
    cpu = [line for line in extra if name(line) not in RUNTIMES] + [f"onnxruntime{versions.pop()}"]
    return {
        "requirements-serve.txt": text(
            "requirements-serve.txt", "The server with ONNX Runtime for CUDA, where it exists, and for the CPU.", extra
        ),
        "requirements-serve-cpu.txt": text(
            "requirements-serve-cpu.txt", "The server with ONNX Runtime for the CPU alone, which is much smaller.", cpu
        ),
        "requirements-optional.txt": text(
            "requirements-optional.txt",
            "Beside one of the others: what --grpc-port and OpenTelemetry's tracing need.",
            [line for name in OPTIONAL for line in extras[name]],
        ),
    }


def name(requirement: str) -> str:
    """Return the name of a requirement's package, normalised."""
    found = re.match(r"[\w.-]+", requirement)
    if not found:
        raise ValueError(f"{requirement!r} is no requirement")
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def text(file: str, what: str, requirements: list[str]) -> str:
    """Return the text of a requirements file."""
    how = SERVER.format(name=file) if file.startswith("requirements-serve") else ""
    return HEADER.format(what=what) + how + "\n".join(sorted(set(requirements), key=str.lower)) + "\n"


def write(path: Path, content: str) -> None:
    """Write a file atomically."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(content)
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def main() -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python deploy/requirements.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file is out of date")
    check = parser.parse_args().check
    outdated = 0
    for file, content in files(PYPROJECT.read_text(encoding="utf-8")).items():
        path = FOLDER / file
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        outdated += 1
        if check:
            print(f"{path} is out of date: python deploy/requirements.py", file=sys.stderr)
        else:
            write(path, content)
            print(path)
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
