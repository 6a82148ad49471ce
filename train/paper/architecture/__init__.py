"""The six architectures as tables and drawings, made from their code."""
