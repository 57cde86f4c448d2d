"""Make it so: rows in, outcomes out; doing a row a second time does no harm.

Deleting follows the delete protocol (`cftools.actions.protocol`); copying makes a file visible in one step at the end.
"""
