# The proxy and nothing else: it needs only Python's standard library.
# The tag is renewed by a bot: .github/dependabot.yml.
FROM python:3.13.14-slim-trixie

RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin claude-proxy
WORKDIR /app
COPY claude_api_proxy.py ./
COPY claude_proxy ./claude_proxy
RUN python -m compileall -q claude_proxy

# By number, so that Kubernetes can see that this is not root.
USER 10001:10001
# Inside the container every address is listened on: where its port is published decides who can reach it, and
# CLAUDE_PROXY_CONTAINER has the proxy say so, in place of a warning that speaks of other machines.
ENV CLAUDE_PROXY_CONTAINER=1 LISTEN_HOST=0.0.0.0 LISTEN_PORT=8765 PYTHONUNBUFFERED=1
EXPOSE 8765

HEALTHCHECK --interval=30s --timeout=5s --start-period=5s --retries=3 CMD ["python", "-S", "-c", \
    "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:%s/health' % os.environ['LISTEN_PORT'], timeout=4)"]

ENTRYPOINT ["python", "-S", "claude_api_proxy.py"]
