"""What a GPU is measured with, and the bundle that carries it to a machine without network; docs/gpus.md."""
