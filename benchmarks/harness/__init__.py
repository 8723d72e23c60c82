"""What everything that is measured shares.

results.py      tables of results, one row per point and seed, as CSV
document.py     from what an analysis returns to those tables
points.py       operating points of finished trials, and choices among them
caps.py         curves of caps per video
listed.py       inference settings that claims are measured at
training.py     trials over seeds
tables.py       means, intervals and Markdown tables
reported.py     what is reported, and where a page shows it
benchmark.py    what a benchmark of methods declares: trials over seeds
measurement.py  what another measurement declares: of the platform, of a machine
run.py          the command
"""
