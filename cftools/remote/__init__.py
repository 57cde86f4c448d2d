"""How servers are reached.

- *script*: a fixed shell text with its arguments; file names travel over stdin or as quoted arguments, never inside it.
- *transport*: one server, reached in one way (SSH; this machine's shell in tests).
- *session*: one script under way, with its streams.
- *fleet*: the transports of a node, each opened when first needed and kept.
"""
