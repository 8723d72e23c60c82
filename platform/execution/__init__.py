"""Trials on Ray: started, watched, stopped, and what came of them."""
