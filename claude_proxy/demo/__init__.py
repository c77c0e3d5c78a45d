"""A pretend REDCap with SecureChatAI, and a small scripted model behind it, for the demo and the tests.

It shares nothing with the rest, so that a mistake made on both sides shows. A request passes `form`, REDCap, `module`
and `vendors` to the model, and the reply `module` and `php` on its way back; `pages` may come in between. Main words:
`Simulator`, `ModelReply`, `Received`.
"""
