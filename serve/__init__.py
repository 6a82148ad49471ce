"""Inference over HTTP: ONNX Runtime behind one batching engine, the Open Inference Protocol, and the app."""
