"""The Gradio app: the page and its tabs, its calls for programs, and its defences against strangers."""

import os

# Gradio reads this when it is imported, which every module of this package may be the first to do: it sends no data.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
