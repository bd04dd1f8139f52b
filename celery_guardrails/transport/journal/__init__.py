"""The journal: what runs at most once is kept on disk from before its acknowledgement until its end is settled.

`entry.py` is one message as data and bytes, `journal.py` the side of the worker that writes, `abandoned.py` the side of
whoever finds what a dead worker left, `ownership.py` how the two tell that it is dead.
"""
