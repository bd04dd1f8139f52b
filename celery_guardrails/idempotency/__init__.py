"""Work that must have its effect once: the ledger of what is done, and the key that names some work there.

A worker asks the ledger before a task's body, and tells it what came of it. Ledgers in memory and in Redis are here,
one in a database is in `store/ledger.py`.
"""
