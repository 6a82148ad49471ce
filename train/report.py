"""The paper's tables and figures beside ours: `python train/report.py` writes REPORT.md and docs/report/.

Every figure of ours comes from the `metrics.json` and `log.csv` of a published model; the paper's from
`train/paper.py`. What is not published yet is a dash. `python train/report.py RUN_FOLDER ...` also takes in finished
runs of recipe `paper`: their figures and logs, not their weights.
"""

import argparse
import sys
from pathlib import Path

from train.errors import exit_status
from train.paper.report import write


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python train/report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_FOLDER", help="a finished run of recipe paper")
    args = parser.parse_args(argv)
    return exit_status("report.py", lambda: write(args.runs))


if __name__ == "__main__":
    sys.exit(main())
