"""The Gradio app: its page, its tabs, its calls, and what protects it from strangers."""
