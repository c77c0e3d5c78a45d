#!/usr/bin/env python3
"""Start the proxy from a bare checkout: `python3 claude_api_proxy.py`, or with a command such as `demo`."""

import sys

if sys.version_info < (3, 11):
    sys.exit("claude-proxy needs Python 3.11 or later; this is Python %d.%d. Try python3.11." % sys.version_info[:2])

from claude_proxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
