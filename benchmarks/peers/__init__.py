"""Searchers on a table of real trainings; `search.md` shows what came of it.

curve_table.py      the table: knobs and whole curves of many trainings, in one file each method
walk.py             one search on it
traces.py           what is kept of a search
ours.py             this platform's samplers, and random draws
searchers.py        other packages' by name; each in an environment of its own where its pins exclude ours
optuna_peers.py     Optuna as it comes
ax_peer.py          Ax
syne_tune_peer.py   Syne Tune
neps_peer.py        NePS
__main__.py         the command that runs one of them
"""
