"""What happened, without content: the journal, and what shows it, the metrics and the status page.

Main words: `Journal`, `Record`, `Activity`.
"""
