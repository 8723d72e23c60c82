"""From a trained method to measured operating points: metrics, detection, dominance."""
