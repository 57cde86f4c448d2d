"""Frozen values without I/O.

- *source*: an origin server that can serve a file; its directories are the origin storage.
- *destination*: an edge server that keeps copies for viewers.
- *node*: one site: its sources, destinations and input files; one config file a node.
- *holding*: one file on one server, seen alive.
- *rank*: the file's line in grade.info, 1 is best.
- *hot*: a file that reached the hit limit inside the window.
- *keeper*: the one destination that keeps its copy when duplicates go.
- *known*: a file that both inputs have, with rank > 0 and size > 0.
"""
