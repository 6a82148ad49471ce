"""Who may use a run folder."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_networks
from conftest import SAMPLES, Child

from train import records
from train.records import Earlier, RunDescription
from train.training import recipes
from train.training.runs import run_folder

ARGUMENTS = ("--model", "tiny_net", "--dataset", "mnist", "--data-dir", SAMPLES, "--learning-rate", 0.05)


def description(seed: int = 0) -> RunDescription:
    settings = recipes.as_settings(recipes.get("fast", "tiny_net", "mnist"))
    return RunDescription(
        model="tiny_net", dataset="mnist", recipe="fast", settings=settings, seed=seed, class_names=["0", "1"]
    )


@pytest.mark.xdist_group("start")
def test_two_runs_started_at_once_do_not_both_train(start: Callable[..., Child], tmp_path: Path) -> None:
    """In one new folder, with different seeds: `args.json` is that of the run that trains."""
    folder = tmp_path / "run"
    slowly = (tiny_networks.make_run_folder_slowly, 5)
    children = [
        start(*ARGUMENTS, "--epochs", 5000, "--seed", seed, "--output-dir", folder, before=slowly) for seed in (1, 2)
    ]
    for child in children:
        child.wait_for(lambda child=child: _decided(child))
    (first,) = (child for child in children if "Epoch 1/" in child.text())
    (second,) = (child for child in children if child is not first)
    first.process.terminate()
    assert first.wait() == 130, first.text()
    assert second.wait() == 2, second.text()
    assert "holds a run already" in second.text()
    assert "Epoch" not in second.text()
    assert f'"seed": {1 + children.index(first)}' in (folder / "args.json").read_text()
    assert not (folder / run_folder.LOCK).exists()


def _decided(child: Child) -> bool:
    return any(words in child.text() for words in ("Epoch 1/", "waiting for it", "holds a run already"))


def test_what_a_killed_process_left_is_no_run(tmp_path: Path) -> None:
    """Its lock, and half of an `args.json`."""
    for name in (run_folder.LOCK, ".args-abcd.json"):
        (tmp_path / name).touch()
    with run_folder.claimed(tmp_path, description(), resume=False):
        assert (tmp_path / "args.json").is_file()
        assert (tmp_path / run_folder.LOCK).is_file()
    assert not (tmp_path / run_folder.LOCK).exists()


def test_a_resumed_run_keeps_the_runs_that_it_started_from(tmp_path: Path) -> None:
    """By the time it is resumed, other weights may be published under the name that it started from."""

    def earlier(*epochs: int) -> RunDescription:
        runs = [
            Earlier(
                name="a", epochs=n, train_seconds=1.0, test_accuracy=90.0, git_commit=None, safetensors_sha256="0" * 64
            )
            for n in epochs
        ]
        return dataclasses.replace(description(), pretrained="published", earlier=runs)

    with run_folder.claimed(tmp_path, earlier(2), resume=False):
        pass
    with run_folder.claimed(tmp_path, earlier(2, 9), resume=True):
        pass
    assert [run.epochs for run in records.read(RunDescription, tmp_path / "args.json").earlier] == [2]


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with (
        pytest.raises(run_folder.RunError, match="is not empty and holds no run"),
        run_folder.claimed(tmp_path, description(), resume=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_error_leaves_a_folder_that_can_be_resumed(tmp_path: Path) -> None:
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)), run_folder.claimed(tmp_path / "run", description(), resume=True):
            raise error
    with run_folder.claimed(tmp_path / "run", description(), resume=True):
        pass
    with (
        pytest.raises(run_folder.RunError, match="its seed was 0, now it is 1"),
        run_folder.claimed(tmp_path / "run", description(seed=1), resume=True),
    ):
        pass


def test_the_folder_is_free_once_its_process_has_ended(tmp_path: Path) -> None:
    assert run_folder.becomes_free(tmp_path, 0)
    with run_folder.alone(tmp_path):
        assert not run_folder.becomes_free(tmp_path, 0)
    assert run_folder.becomes_free(tmp_path, 0)
    (tmp_path / run_folder.LOCK).touch()  # of a process that was killed
    assert run_folder.becomes_free(tmp_path, 0)
    assert not list(tmp_path.iterdir())
