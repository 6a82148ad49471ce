"""From datasets to run folders, model cards and ONNX files: the commands, and the library below them."""

import os

# Nothing is reported to anybody. ONNX Runtime and the Hugging Face libraries read these when they are imported.
os.environ.update(ORT_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_TELEMETRY="1")
