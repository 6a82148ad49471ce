"""The Gradio app: the page and its tabs, its calls for programs, and its defences against strangers."""

import os

from serve.app.hardening.gradio_import import write_no_type_hints
from serve.app.hardening.private_folder import claim

# Gradio reads these when it is imported, which every module of this package may be the first to do. It sends no data,
# and keeps the files of visitors in a folder that nobody else can read.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = str(claim())
write_no_type_hints()
