"""Catalogs of what there is by name, and the plug-ins that add to them."""
