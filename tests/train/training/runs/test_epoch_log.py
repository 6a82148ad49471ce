"""`log.csv` of this version and of earlier ones."""

from pathlib import Path

import pytest

from train.training.runs import epoch_log


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"epoch": 1.0, "validation_loss": 0.1 + 0.2}, {"epoch": 2.0, "validation_loss": 1e-9}]
    epoch_log.write(rows, tmp_path / "log.csv")
    assert epoch_log.read(tmp_path / "log.csv") == rows


def test_a_run_that_an_earlier_version_began_goes_on(tmp_path: Path) -> None:
    """Its rows have no `validation_loss_smoothed`: they stay without one, and the later ones keep theirs."""
    rows = [
        {"epoch": 1.0, "validation_loss": 0.5},
        {"epoch": 2.0, "validation_loss": 0.4, "validation_loss_smoothed": 0.9},
    ]
    epoch_log.write(rows, tmp_path / "log.csv")
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["epoch,validation_loss,validation_loss_smoothed", "1.0,0.5,", "2.0,0.4,0.9"]
    assert epoch_log.read(tmp_path / "log.csv") == rows


@pytest.mark.parametrize("line", ["1.0", "1.0,abc"])
def test_a_damaged_log_is_not_read(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.csv").write_text(f"epoch,validation_loss\n{line}\n")
    with pytest.raises((ValueError, TypeError)):
        epoch_log.read(tmp_path / "log.csv")
