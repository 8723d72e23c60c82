"""Gates that know a budget: one network for the whole front."""
