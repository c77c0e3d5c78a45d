"""HTTP/1.1 towards clients, without a buffer: connections, requests in, bytes out, who may come in.

Main words: `UnbufferedHTTPRequestHandler`, `HttpRequest`, `ResponseWriter`, `Connections`.
"""
