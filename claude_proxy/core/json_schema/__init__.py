"""JSON Schema as far as SDKs and real API go: which types a value may have, and whether it is as a schema says.

Pure, and knows nothing of messages. Main words: `Schema`, `types`, `faults`, `unchecked`.
"""
