"""From a point of a front to a registered model, and from a model to predictions."""
