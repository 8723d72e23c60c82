"""Claims, measured: `python -m benchmarks` lists them, `python -m benchmarks NAME` measures one."""
