"""Write the paper's tables and figures beside ours: `python train/report.py` writes REPORT.md and docs/report/.

Our numbers come from the `metrics.json` and `log.csv` of the published models, the paper's from `train/paper/paper.py`.
A model that is not published yet is a dash. `python train/report.py RUN_FOLDER ...` also adds finished runs of recipe
`paper`: their metrics and logs, not their weights.
"""

import argparse
import sys
from pathlib import Path

from train.errors import exit_status, program
from train.paper import report


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog=program("report.py"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_FOLDER", help="a finished run of recipe paper")
    args = parser.parse_args(argv)
    return exit_status("report.py", lambda: report.write(args.runs))


if __name__ == "__main__":
    sys.exit(main())
