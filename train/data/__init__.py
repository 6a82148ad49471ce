"""From the name of a dataset to its images on the device: loading, decoding, augmentation and preprocessing."""
