"""The upstream room."""
