"""The Optuna study: ask, tell, and where it is stored."""
