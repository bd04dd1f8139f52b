"""`doctor --self-test`: one task, the canary, fails, is dead-lettered, archived and requeued, and succeeds.

steps.py           the steps, one after the other
task.py            the canary, its queue, and the journal in which its worker notes what happened
worker.py          the canary's worker, as the command sees it: a process
worker_process.py  the program that this process runs
cleanup.py         removes what the test leaves behind, wherever it ended
"""

from __future__ import annotations

__all__: list[str] = []
