"""The command `deep-image-zoo`, and what commands say where an extra is not installed."""

import importlib
import inspect
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import deep_image_zoo
import serve.__main__
import train
import zoo

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_there_is_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert deep_image_zoo.main(["--version"]) == 0
    assert capsys.readouterr().out == f"deep-image-zoo {version('deep-image-zoo')}\n"
    assert "version" in PROJECT["dynamic"]
    assert zoo.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert deep_image_zoo.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("serve", "fit", "publish", "export", "evaluate", "verify", "report"):
        assert f"\n  {name} " in shown


@pytest.mark.parametrize(("words", "said"), [([], "no command"), (["fly"], "unknown command 'fly'")])
def test_a_wrong_command_gets_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert deep_image_zoo.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"deep-image-zoo: {said}: valid are {', '.join(deep_image_zoo.COMMANDS)}"


@pytest.mark.parametrize("name", deep_image_zoo.COMMANDS)
def test_a_command_gets_the_words_after_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(deep_image_zoo.COMMANDS[name][0])
    assert "argv" in inspect.signature(module.main).parameters
    monkeypatch.setattr(module, "main", lambda argv: 7 if argv == ["--flag", "word"] else 1)
    assert deep_image_zoo.main([name, "--flag", "word"]) == 7


def test_usage_shows_how_it_was_called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for caller, shown in (("/usr/bin/deep-image-zoo", "deep-image-zoo export"), ("x.py", "python train/export.py")):
        monkeypatch.setattr(sys, "argv", [caller])
        with pytest.raises(SystemExit) as ended:
            deep_image_zoo.main(["export", "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: {shown} ")


def modules_of(extra: str) -> Iterator[set[str]]:
    """The top-level modules of each requirement of an extra that is installed here."""
    installed = packages_distributions()
    for line in PROJECT["optional-dependencies"][extra]:
        name = Requirement(line).name.lower().replace("_", "-")
        modules = {
            module for module, owners in installed.items() if name in {o.lower().replace("_", "-") for o in owners}
        }
        if modules:
            yield modules


def test_the_extras_modules_are_known() -> None:
    optional = {"uvloop", "typing_extensions"}  # uvicorn takes it where it finds it; comes with pydantic
    for modules in modules_of("serve"):
        assert modules & {*serve.__main__.NEEDED, *optional}, modules
    for modules in modules_of("train"):
        assert modules & {*train.OF_THE_EXTRA}, modules


def without(module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in an interpreter that has no such module."""
    hide = f"import sys, runpy, importlib.util as u; find = u.find_spec; sys.modules[{module!r}] = None; "
    hide += f"u.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest); "
    run = "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    return subprocess.run(
        [sys.executable, "-c", hide + run, *command], cwd=ROOT, check=False, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("module", "command", "line"),
    [
        ("fastapi", ("serve",), "python -m serve: fastapi not installed: pip install 'deep-image-zoo[serve]'"),
        ("accelerate", ("train.fit",), "accelerate is not installed: pip install 'deep-image-zoo[train]'"),
        ("onnxscript", ("deep_image_zoo", "nope"), None),
    ],
)
def test_a_missing_extra_gets_one_line(module: str, command: tuple[str, ...], line: str | None) -> None:
    done = without(module, *command)
    assert done.returncode != 0
    if line:
        assert done.stderr.splitlines() == [line]
    else:  # what is not needed is not missed
        assert "unknown command" in done.stderr
