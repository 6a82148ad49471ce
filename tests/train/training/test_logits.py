"""The logits that a run leaves beside its weights."""

from pathlib import Path

import numpy as np
import pytest

from train.training.results import logits
from train.training.results.logits import Logits, LogitsError


def split(n: int, seed: int) -> Logits:
    generator = np.random.default_rng(seed)
    return Logits(generator.normal(size=(n, 3)).astype(np.float32), generator.integers(0, 3, n))


def test_both_splits_come_back(tmp_path: Path) -> None:
    validation, test = split(5, 0), split(7, 1)
    logits.write(tmp_path / "logits.npz", validation, test)
    for found, written in zip(logits.read(tmp_path / "logits.npz"), (validation, test), strict=True):
        np.testing.assert_array_equal(found.logits, written.logits)
        np.testing.assert_array_equal(found.labels, written.labels)
    assert [file.name for file in tmp_path.iterdir()] == ["logits.npz"]


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "logits.npz"
    with pytest.raises(LogitsError, match=r"logits\.npz is missing: train/fit\.py writes it"):
        logits.read(file)
    logits.write(file, split(5, 0), split(7, 1))
    whole = file.read_bytes()
    for damaged in (b"", b"logits", whole[: len(whole) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(LogitsError, match=r"logits\.npz is damaged"):
            logits.read(file)
    np.savez_compressed(file, validation_logits=np.zeros((2, 3)), validation_labels=np.zeros(2))
    with pytest.raises(LogitsError, match="damaged"):
        logits.read(file)
    logits.write(file, split(5, 0), Logits(np.zeros((7, 3)), np.zeros(6)))
    with pytest.raises(LogitsError, match=r"\(7, 3\) logits and \(6,\) labels of the test split"):
        logits.read(file)
