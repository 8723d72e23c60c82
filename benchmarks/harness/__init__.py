"""What the benchmarks of the methods share.

results.py      tables of results, one row per point and seed, as CSV
document.py     from what an analysis returns to those tables
points.py       operating points of finished trials, and choices among them
training.py     trials over seeds
tables.py       means, intervals and Markdown tables
benchmark.py    what a benchmark declares
run.py          the command
"""
