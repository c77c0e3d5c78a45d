"""The securechat room."""
