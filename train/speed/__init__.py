"""The same results in less time: convolutions, folding, CUDA graphs, synchronised norms, memory."""
