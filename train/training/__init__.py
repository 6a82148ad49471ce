"""One run from start to end: arguments, recipe, model, loop, states, run folder; and the queue of many runs."""
