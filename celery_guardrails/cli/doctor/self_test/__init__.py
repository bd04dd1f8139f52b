"""The canary of `doctor --self-test`: one task that fails, dies, is archived, put back, and succeeds.

task.py     the task, and the journal in which its worker notes what happened
child.py    a worker of the application for it alone, as a process
course.py   the steps, one after the other, and what is cleaned up whatever happens
"""

from __future__ import annotations

__all__: list[str] = []
