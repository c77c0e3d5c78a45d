"""The wait room."""
