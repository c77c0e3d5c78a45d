"""The module's side: `Prompt` to form fields, and what came back to text and usage, or to a failure.

Main words: `form_fields`, `Answer`, apology.
"""
