"""What is published: model cards, compact weights, their provenance and the checks of every number."""
