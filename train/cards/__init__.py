"""What is published of a run: model card, compact weights, provenance, and the checks of them."""
