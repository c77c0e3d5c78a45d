"""Tool calls as text: how they are written for the model, and how what a model wrote is read back.

Writer and reader stand side by side: whoever changes one changes the other. Main words: `Call`, `CallWriter`, `Reader`,
`ReadingCosts`, dialect.
"""
