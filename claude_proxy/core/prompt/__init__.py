"""`Request` to `Prompt`: a conversation with tools as a text-only model can read it.

Main words: `Prompt`, `Turn`, `PreparedMessage`, `Toolbox`, armour (what carries text through the module's HTML-entity
decoding).
"""
