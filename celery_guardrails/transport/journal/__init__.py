"""The journal: it keeps messages that run at most once on disk, from before their acknowledgement until their end.

`entry.py` is one message as data and bytes. `journal.py` is the worker's side, which writes. `abandoned.py` is the side
of the process that finds a dead worker's messages. `ownership.py` finds out whether a worker is dead.
"""
