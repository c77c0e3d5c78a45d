"""The messages room."""
