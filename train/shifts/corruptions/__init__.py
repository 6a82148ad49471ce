"""Corruptions of images after Hendrycks and Dietterich (CIFAR-10-C) and Mu and Gilmer (MNIST-C)."""
