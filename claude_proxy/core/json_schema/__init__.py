"""The json_schema room."""
