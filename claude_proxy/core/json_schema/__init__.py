"""JSON Schema: which types a value may have, and whether a value is as a schema says.

Pure, and knows nothing of messages. Main words: `Schema`, `types`, `faults`.
"""
