"""The model's text to content blocks, and whatever it takes to get there: limits, repair, continuation.

Main words: `Reply`, defect, repair, continuation, `AskLoop`.
"""
