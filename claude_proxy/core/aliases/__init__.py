"""The aliases room."""
