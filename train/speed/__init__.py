"""The same results, sooner: convolutions on CPUs, folded layers, CUDA graphs, synchronised norms and memory."""
