"""`python -m claude_proxy`."""

import sys

if sys.version_info < (3, 11):
    sys.exit("claude-proxy needs Python 3.11 or later; this is Python %d.%d. Try python3.11." % sys.version_info[:2])

from claude_proxy.cli import main

sys.exit(main())
