"""From published weights to ONNX files: the graph, its quantisation, its metadata, and how to run it."""
