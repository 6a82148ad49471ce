"""`train/robustness.py`: what it writes, that it goes on where it was, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SAMPLES

from train import records, robustness
from train.data import loading
from train.onnx_export import runtime
from train.shifts import robustness as shifts
from train.shifts.corruptions.catalog import CORRUPTIONS, corrupt
from train.shifts.robustness import Robustness

IMAGES = 16


def measure(card: Path, kept: Path) -> Robustness:
    ((folder, found),) = shifts.measure([card], "int8", IMAGES, SAMPLES, kept)
    assert folder == card
    assert records.read(Robustness, card / "robustness.json") == found
    return found


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The images of each run of an ONNX file, as they come."""
    seen: list[np.ndarray] = []
    whole = runtime.logits

    def counted(session: Any, pixels: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        seen.append(pixels)
        return whole(session, pixels, batch_size)

    monkeypatch.setattr(runtime, "logits", counted)
    return seen


def test_measures_every_corruption_and_severity(twin: Path, tmp_path: Path, dataset: loading.Dataset) -> None:
    found = measure(twin, tmp_path / "kept")
    name = dataset.name
    assert {corruption: len(scores.accuracy) for corruption, scores in found.corruptions.items()} == {
        corruption.name: len(corruption.levels) for corruption in CORRUPTIONS[name]
    }
    test = dataset.test.spread(IMAGES)
    pixels, labels = test.images.permute(0, 2, 3, 1).contiguous().numpy(), test.labels.numpy()
    assert found.test_images == IMAGES
    for images, accuracy in (
        (pixels, found.clean.accuracy),
        (corrupt(pixels, name, "fog", 4), found.corruptions["fog"].accuracy[3]),
    ):
        opened = runtime.session(twin / "model.int8.onnx")
        assert accuracy == 100 * (runtime.logits(opened, images).argmax(1) == labels).mean()
    means = [np.mean(scores.accuracy) for scores in found.corruptions.values()]
    assert found.mean.accuracy == pytest.approx(np.mean(means), abs=1e-3)
    assert len(found.by_severity.accuracy) == 5


def test_goes_on_where_it_was(twin: Path, tmp_path: Path, runs: list[np.ndarray]) -> None:
    kept = tmp_path / "kept"
    first = measure(twin, kept)
    conditions = 1 + sum(len(scores.accuracy) for scores in first.corruptions.values())
    assert len(runs) == conditions
    folder = kept / f"{twin.name}.int8"
    (folder / "fog-2.npy").unlink()
    runs.clear()
    assert measure(twin, kept) == first
    assert len(runs) == 2  # the clean images, and what was missing
    (clean,) = folder.glob("clean.*.npy")
    np.save(clean, np.load(clean) + 0.1)  # of another network
    runs.clear()
    assert measure(twin, kept) == first
    assert len(runs) == conditions


def test_command_prints_a_table(twin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = robustness.main(
        [str(twin), "--images", "10", "--data-dir", str(SAMPLES), "--logits", str(tmp_path / "kept")]
    )
    assert status == 0
    lines = capsys.readouterr().out.splitlines()
    stated = json.loads((twin / "robustness.json").read_text())
    assert lines[0].startswith(f"{twin.name}: {stated['clean']['accuracy']:.2f} % on 10 clean images")
    assert {line.split()[0] for line in lines[2:]} == set(stated["corruptions"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--images", "2000", "--data-dir", str(SAMPLES)], "--images 2000: {name} has 1,000 test images there"),
        (["--precision", "fp32"], "is not built yet: python train/export.py"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    line: str,
    twin: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    dataset: loading.Dataset,
) -> None:
    (twin / "model.onnx").unlink()
    assert robustness.main([str(twin), *arguments, "--logits", str(tmp_path / "kept")]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert line.format(name=dataset.name) in message


def test_images_of_ones_own_are_refused(twin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(config | {"dataset": "/pictures/my insects"}))
    assert robustness.main([str(twin)]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "corruptions are of cifar10 and mnist, not of" in message


def test_calibration_error_of_known_logits() -> None:
    # Four images with a probability of 0.8 for the first class, of which three are of it.
    logits, labels = np.log(np.tile([[0.8, 0.2]], (4, 1))).astype(np.float32), np.array([0, 0, 0, 1])
    found = shifts.scored(logits, labels, records.CalibrationFit())
    assert found.accuracy == 75
    assert found.ece == pytest.approx(0.05, abs=1e-6)
    # At half the temperature the probability is 16 / 17.
    colder = shifts.scored(logits, labels, records.CalibrationFit(temperature=0.5))
    assert colder.ece == pytest.approx(16 / 17 - 0.75, abs=1e-6)


def test_another_calibration_needs_no_new_run(twin: Path, tmp_path: Path, runs: list[np.ndarray]) -> None:
    first = measure(twin, tmp_path / "kept")
    config = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps({**config, "temperature": 5 * config["temperature"]}))
    runs.clear()
    second = measure(twin, tmp_path / "kept")
    assert len(runs) == 1
    assert second.clean.accuracy == first.clean.accuracy
    assert second.clean.ece != first.clean.ece
    assert second.temperature == 5 * first.temperature
