"""What the proxy was told: one table of settings, and where their values come from.

Main words: `Settings`, `Setting`, `Secret`, `SettingsError`.
"""
