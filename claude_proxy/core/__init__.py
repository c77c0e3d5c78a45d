"""What is hard about this product, as plain functions over plain values: no sockets, clocks, threads or chance.

The way of a request: `messages` reads it, `aliases` chooses the model, `prompt` renders it, `securechat` writes the
form and reads the answer, `reply` makes content of it, `messages` writes the response.
"""
