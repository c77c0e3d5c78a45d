"""The model's text to content blocks, and whatever it takes to get there: limits, repair, continuation.

Main words: `Reply`, `Found`, finder, defect, repair, continuation, edit mending, `Ask`.
"""
