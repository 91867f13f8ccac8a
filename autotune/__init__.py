"""The autotuner: which configuration of a kernel to run on a GPU that need not be at hand, and better with it."""
