"""The front of one or several sweeps, its table and its pages."""
