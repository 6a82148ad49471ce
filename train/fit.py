"""Train a model: `accelerate launch train/fit.py --model improved_googlenet --dataset cifar10 --recipe fast`.

The same command trains on a CPU, on one GPU, on several and on several machines: `accelerate config` or the flags of
`accelerate launch` say which. Plain `python train/fit.py` uses the GPU where there is one.
"""

import sys

from train.cards import provenance
from train.errors import UserError
from train.speed.graphs import GraphError
from train.training import fitting, interrupt, models
from train.training.arguments import parse
from train.training.checkpoint import CheckpointError
from train.training.progress import NonFiniteLossError


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0, 2 for a mistake of the user's, 1 for a run that failed, 130 for one that was stopped.
    """
    interrupt.follow_launcher()
    try:
        args = parse(argv)
        earlier = provenance.earlier_runs(models.tagged(args.model, args.dataset), args.pretrained)
        fitting.fit(args, earlier)
    except UserError as error:
        print(f"fit.py: {error}", file=sys.stderr)
        return 2
    except (NonFiniteLossError, GraphError, CheckpointError, OSError) as error:  # OSError: a full disk, for example
        print(f"fit.py: {error}", file=sys.stderr)
        return 1
    except interrupt.Interrupted as error:
        print(f"fit.py: {error}; the state is saved: the same command with --resume goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
