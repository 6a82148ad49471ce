"""From datasets to run folders, model cards and ONNX files: the commands, and the library below them."""
