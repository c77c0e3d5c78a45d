# The proxy and nothing else: it needs only Python's standard library.
FROM python:3.13-slim

RUN useradd --system --uid 10001 --no-create-home proxy
WORKDIR /app
COPY claude_api_proxy.py ./
COPY claude_proxy ./claude_proxy
RUN python -m compileall -q claude_proxy

USER proxy
# Inside the container every address is listened on; docker-compose.yml publishes on the host's loopback only.
ENV LISTEN_HOST=0.0.0.0 LISTEN_PORT=8765 PYTHONUNBUFFERED=1
EXPOSE 8765

HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 CMD ["python", "-S", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:%s/health' % os.environ['LISTEN_PORT'], timeout=4)"]

ENTRYPOINT ["python", "-S", "claude_api_proxy.py"]
