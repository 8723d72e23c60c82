"""Claims, measured: `python -m benchmarks NAME` measures one, `--help` lists them."""
