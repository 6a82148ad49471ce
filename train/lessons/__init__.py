"""What the notebooks call beside the library: networks looked at from inside, short trainings, plots."""
