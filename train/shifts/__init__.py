"""Images unlike those of the training: corrupted ones, and images of none of the classes."""
