"""Methods, baselines, training, evaluation, cost and metrics. Imports nothing else of ours."""
