"""Servers on loopback and generated data, for `cftools demo`, `cftools lab` and the tests.

- *lab server*: an SSH server of this machine with a loopback address of its own (Linux answers on all of 127/8), either
  inside this process (`inprocess`, nothing needed but Python) or a real sshd (`sshd`). They share the file system.
- *demo node*: a folder with the config, the inputs, the keys and the servers' folders of one made-up site (`node`).
- *cast*: the files of that site and the part each one plays (`cast`).
"""
