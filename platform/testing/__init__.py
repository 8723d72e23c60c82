"""Small sweeps and homes, for tests of ours and of plug-ins."""
