"""What must survive a crash.

- *run*: one process that plans or acts; its number stands in every row it wrote.
- *task*: one copy from the moment it is accepted until it is done, failed, timed out or cancelled.
- *journal*: one row a file that was copied or deleted, written `intended` before the server is asked, settled after.
- *cooldown*: how long a source and a destination that failed together rest.
- *lock*: a flock on a file with a JSON body; the kernel frees it when its process ends, however it ends.
"""
