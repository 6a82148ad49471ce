"""Rebuild the samples from the complete datasets: `python train/samples/make.py FOLDER_WITH_MNIST_AND_CIFAR10`.

They are the first 200 training and the first 100 test images of each class, in the datasets' own order and the Hub's
layout.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PER_CLASS = {"train": 200, "test": 100}


def make(source: Path, target: Path) -> None:
    """Copy the first images of each class from one data folder to another, `PER_CLASS` of them."""
    for folder in ("mnist/mnist", "cifar10/plain_text"):
        for split, per_class in PER_CLASS.items():
            table = pa.concat_tables(pq.read_table(path) for path in sorted((source / folder).glob(f"{split}-*")))
            labels = table["label"].to_numpy()
            rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))
            (target / folder).mkdir(parents=True, exist_ok=True)
            # PNG does not compress any further, and a dictionary of distinct images only takes space.
            pq.write_table(
                table.take(rows),
                target / folder / f"{split}-00000-of-00001.parquet",
                compression="none",
                use_dictionary=False,
            )


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(__file__).parent)
