"""One file a subcommand: gather the facts, plan, act, journal.

A job is a generator of rows. It opens with a `begin` row and closes with an `end` row; what it does lies between, so a
consumer sees outcomes as they happen. A job that ends early ends without an `end` row.
"""
