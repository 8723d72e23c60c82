"""What sweeps of `durability.py` are given to survive: see README.md."""
