"""Model names to SecureChatAI aliases, and what is known of an alias: family, limits, tokens, health.

Main words: `Alias`, `Choice`, `estimate`, `Health`.
"""
