"""How a proxy shows that it is ours before it is handed a token.

Whoever listens on the port first can answer anything. So the caller sends a challenge, and the answer is a keyed hash
of it that only a holder of the same REDCap token can compute. The address that listens is part of what is hashed: an
impostor cannot pass on the proof of a proxy that listens elsewhere. So are the version, the REDCap and the model map:
whoever proves them will answer as one's own proxy would. A proxy that shares clients' tokens has nothing to prove with.
"""

from __future__ import annotations

import hmac
import json
import re

from claude_proxy import __version__
from claude_proxy.settings.table import Settings


def prove(settings: Settings, challenge: str) -> str | None:
    """The answer to a challenge of 32 hexadecimal digits; None to anything else, or without a token of our own."""
    if settings.redcap_api_token is None or not re.fullmatch("[0-9a-f]{32}", challenge):
        return None
    facts = [
        *("claude-proxy", __version__, challenge),
        *(settings.listen_host, settings.listen_port),
        *(settings.redcap_api_url, settings.redcap_module_prefix, list(settings.model_map.items())),
        sorted(settings.model_servers.items()),
        sorted((name, server.url, server.module_prefix) for name, server in settings.servers.items()),
    ]
    return hmac.new(settings.redcap_api_token.reveal().encode(), json.dumps(facts).encode(), "sha256").hexdigest()
