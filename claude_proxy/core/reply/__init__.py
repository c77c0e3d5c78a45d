"""The reply room."""
