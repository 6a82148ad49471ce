"""Inference over HTTP: ONNX Runtime behind one batching engine, the Open Inference Protocol, and the app."""

import os

# Nothing is reported to anybody. ONNX Runtime and the Hugging Face libraries read these when they are imported.
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1")
