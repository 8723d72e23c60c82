"""From overrides to a resolved plan of a sweep."""
