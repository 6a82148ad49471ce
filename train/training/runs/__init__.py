"""The folder of a run and what is kept there while it trains: state, log, lock; and the queue of several runs."""
