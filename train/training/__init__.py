"""One run from start to end: arguments, recipes, loop, checkpoints, distillation and the run folder."""
