"""What `python -m kernels.bench` runs: batches, variants, the process that times one of them, reports."""
