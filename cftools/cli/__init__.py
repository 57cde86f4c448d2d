"""The command line: each command parses its options, calls one job and shows its rows.

Nothing heavy is imported here at the top: ``--help`` must be quick.
"""
