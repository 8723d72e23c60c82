"""Networks that turn a step of a video into features, their weights and their training."""
