"""What is: inputs and servers read into values and frames.

A fact is text in, values out. It says when its input was incomplete and never takes an unknown for an empty. One that
asks a server owns the remote command and the parser of its reply.
"""
