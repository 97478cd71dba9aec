"""Where every figure in the documentation comes from: `python -m benchmarks` (see `benchmarks/__main__.py`)."""
