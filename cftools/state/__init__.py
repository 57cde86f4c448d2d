"""What must survive a crash.

- *run*: one process that plans or acts; its number stands in every row it wrote.
- *task*: one copy from the moment it is accepted until it is done, failed, timed out or cancelled.
- *journal*: one row a file that was copied or deleted, written `intended` before the server is asked, settled after.
- *cooldown*: how long a source and a destination that failed together rest.
- *lock*: freed when its process ends, however it ends: a flock on a file with a JSON body, which the kernel frees, or
  an advisory lock of the session with PostgreSQL, which the server frees.

All of it is in a SQLite file for one manager, or in a PostgreSQL database for several; see `cftools.state.open`.
"""
