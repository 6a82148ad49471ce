"""What a trained network gives: predictions, metrics and plots."""
