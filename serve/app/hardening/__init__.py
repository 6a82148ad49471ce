"""What makes Gradio fit for strangers: closed routes, bounds on memory and disk, and errors in this server's form."""
