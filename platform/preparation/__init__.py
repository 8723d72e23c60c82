"""From videos to features: data sets, backbones, extraction."""
