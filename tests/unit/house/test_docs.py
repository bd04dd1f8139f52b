"""Every fenced block of the documentation and the README is executed, or checked by the parser of what it is.

What a block has to look like, and what a comment above it may say, is in docs/README.md. A block of a kind that no rule
knows is a fault. `tests/document/` has the rules; here they meet the pages.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.document import command, data, program, setting
from tests.document.block import PAGES, Block, blocks_of, inline_code_of, text_of
from tests.document.celery_line import option_faults

GROUPS = ("guardian", "guardrails")
"""Commands of Celery's that are ours."""
BELOW = ("alerts", "audit", "dlq", "retries")
"""Groups below `guardrails` that a text names without it."""


def console_faults(block: Block, apps: frozenset[str]) -> Iterator[str]:
    lines = list(command.console_lines(block.text))
    if not lines:
        yield "a console has a line that begins with `$ `; write text where it has none"
    for number, line in lines:
        yield from (f"line {number + 1}: {fault}" for fault in command.faults_in_line(line, apps))


def script_faults(block: Block, apps: frozenset[str]) -> Iterator[str]:
    read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    if read.returncode:
        yield read.stderr
    for line in block.text.replace("\\\n", " ").splitlines():
        yield from command.faults_in_line(line, apps)


def text_faults(block: Block) -> Iterator[str]:
    for line in block.text.splitlines():
        if line.startswith(("$ ", "celery -", ">>> ", "pip install", "from ", "import ")):
            yield f"this is no text: {line}"


CHECKS: dict[str, Callable[[Block, frozenset[str]], Iterator[str]]] = {
    "bash": script_faults,
    "sh": script_faults,
    "console": console_faults,
    "dockerfile": lambda block, _: data.dockerfile_faults(block.text),
    "ini": lambda block, _: data.ini_faults(block.text),
    "json": lambda block, _: data.json_faults(block.text),
    "pycon": lambda block, _: iter(()),  # executed below
    "python": lambda block, _: program.fragment_faults(block) if "fragment" in block.remarks else iter(()),
    "systemd": lambda block, _: data.unit_faults(block.text),
    "text": lambda block, _: text_faults(block),
    "toml": lambda block, _: data.toml_faults(block.text),
    "yaml": lambda block, _: data.yaml_faults(block.text),
}


def page_faults(page: str, text: str | None = None) -> Iterator[str]:
    blocks = list(blocks_of(page, text))
    apps = program.modules_of(blocks)
    for block in blocks:
        if block.kind not in CHECKS:
            yield f"{block.place}: no rule knows what a block of kind {block.kind!r} is"
            continue
        yield from (f"{block.place}: {fault}" for fault in CHECKS[block.kind](block, apps))
        if setting_fault := list(setting.faults_in_text(block.text)):
            yield f"{block.place}: {', '.join(setting_fault)}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_right(page: str) -> None:
    assert list(page_faults(page)) == []


@pytest.mark.parametrize("page", [page for page in PAGES if list(program.projects_of(list(blocks_of(page))))])
def test_every_python_block_runs(page: str, tmp_path: Path) -> None:
    for number, steps in enumerate(program.projects_of(list(blocks_of(page)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        program.run(steps, folder)


@pytest.mark.parametrize("page", PAGES)
def test_every_name_in_the_text_exists(page: str) -> None:
    found = list(setting.faults_in_text(text_of(page)))
    for line, code in inline_code_of(page):
        found += [f"{page}:{line}: {fault}" for fault in code_faults(code)]
    assert found == []


def code_faults(code: str) -> Iterator[str]:
    """What is wrong with a setting or a command that stands in the text."""
    if fault := setting.unknown_setting(code):
        yield fault
    words = code.replace("...", "x").split()
    if words[:1] == ["celery"] and set(words) & set(GROUPS):
        yield from option_faults(words[min(words.index(group) for group in GROUPS if group in words) :])
    elif words[:1] == ["guardrails"] and len(words) > 1 and words[1] != "=":
        yield from option_faults(words)
    elif words and words[0] in BELOW and len(words) > 1:
        yield from option_faults(["guardrails", *words])


WRONG = {
    "```fortran\nx\n```": "no rule knows",
    "```console\n$ celery -A shop guardrails dlq lst\n```": "No such command 'lst'",
    "```console\n$ celery -A shop guardrails dlq list --sice 2h\n```": "No such option",
    "```console\n$ celery -A shop guardrails dlq requeue 4f1c\n```": "Missing option '--reason'",
    '```console\n$ celery -A shop guardrails dlq list "tsk:shop.*"\n```': "tsk",
    "```console\n$ celery -A shop worker --gardian\n```": "No such option",
    "```python\n# shop.py\nx = 1\n```\n```console\n$ celery -A shp guardian\n```": "none of the page's modules",
    '```console\n$ pip install "celery-guardrails[rediss]"\n```': "no extra rediss",
    "```console\n$ make tests\n```": "no target tests",
    "```console\n$ frobnicate\n```": "does not know",
    "```console\n$ GUARDRAILS_SLACK_TOKE=x celery -A shop guardian\n```": "no variable GUARDRAILS_SLACK_TOKE",
    "```console\n$ kubectl exec deploy/x -- celery -A proj guardian --chek\n```": "No such option",
    "```console\nno line\n```": "begins with `$ `",
    "```bash\nif true; then\n```": "syntax error",
    "```yaml\na: [\n```": "no YAML",
    "```yaml\nservices:\n  g:\n    command: celery -A proj guardin\n```": "No such command",
    '```yaml\ng:\n  healthcheck: {test: ["CMD", "celery", "guardian", "--ckeck"]}\n```': "No such option",
    "```yaml\ncontainers:\n- volumeMounts: [{name: spol}]\nvolumes: [{name: spool}]\n```": "no volume spol",
    "```systemd\n[Service]\nExecStrt=/usr/bin/celery guardian\n```": "no key ExecStrt",
    "```ini\n[Service]\nExecStart=celery guardian\n```": "whole path",
    "```dockerfile\nFROM python\nCOPI a b\n```": "no instruction COPI",
    '```dockerfile\nFROM python\nCMD ["celery", "-A", "proj", "guardrail"]\n```': "No such command",
    "```json\n{\n```": "no JSON",
    "```toml\nx = \n```": "no TOML",
    "```text\n$ celery -A shop guardian\n```": "this is no text",
    "<!-- fragment: its server is not here -->\n```python\nfrom celery_guardrails import Polic\n```": "has no Polic",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_found(text: str) -> None:
    found = "\n".join(page_faults("docs/wrong.md", text))
    assert WRONG[text] in found


WRONG_PYTHON = {
    "```python\nfrom celery_guardrails import Policy\nPolicy(max_attemps=3)\n```": "max_attempts",
    "```python\nunknown_name\n```": "docs/wrong.md:2: the block raises",
    "<!-- raises: ConfigurationError -->\n```python\nx = 1\n```": "raised nothing",
    "```python\n# shop.py\nfrom celery import Celery\napp = Celery('shop')\n"
    "app.conf.guardrails = {'enviroment': 'x'}\n```": "did you mean environment",
    "```python\n# shop.py\nfrom celery import Celery\napp = Celery('shop')\napp.conf.task_ack_late = True\n```": (
        "no setting task_ack_late"
    ),
    "```python\n# json.py\nx = 1\n```": "another module",
    "```python\n# shop.py, at the end\nx = 1\n```": "no shop.py",
    "```pycon\n>>> 1 + 1\n3\n```": "Expected",
}


@pytest.mark.parametrize("text", WRONG_PYTHON, ids=range(len(WRONG_PYTHON)))
def test_what_does_not_run_is_found(text: str, tmp_path: Path) -> None:
    (steps,) = program.projects_of(list(blocks_of("docs/wrong.md", text)))
    with pytest.raises(AssertionError) as raised:
        program.run(steps, tmp_path)
    assert WRONG_PYTHON[text] in str(raised.value)


RIGHT_PYTHON = """
```python
# shop/first.py
from celery import Celery
from celery_guardrails import GuardedTask

app = Celery("shop", broker="redis://localhost:6379/0")

@app.task(base=GuardedTask)
def add(x, y):
    return x + y
```
```{note}
In a note:

    $ no block
```
"""


def test_an_indented_block_is_found() -> None:
    with pytest.raises(AssertionError, match=r"docs/wrong\.md:\d+: an indented block"):
        list(blocks_of("docs/wrong.md", RIGHT_PYTHON))


def test_a_page_is_one_program(tmp_path: Path) -> None:
    page = RIGHT_PYTHON.partition("```{note}")[0] + (
        "```python\n# shop/first.py, at the end\nz = 3\n```\n"
        "```python\nassert add(1, 2) == z and app.main == 'shop'\nadd.delay(1, 2)\n```\n"
        "<!-- raises: TypeError -->\n```python\nadd(1)\n```\n"
        "```{tip}\n~~~pycon\n>>> add(1, z)\n4\n~~~\n```\n"
        "<!-- project: another -->\n```python\nassert 'z' not in globals()\n```\n"
    )
    projects = list(program.projects_of(list(blocks_of("docs/right.md", page))))
    assert [len(steps) for steps in projects] == [5, 1]
    for number, steps in enumerate(projects):
        (tmp_path / str(number)).mkdir()
        program.run(steps, tmp_path / str(number))


@pytest.mark.parametrize(
    "code",
    ["dead_letter.spool", "dlq restor ID", "guardrails doctor --strct", "celery -A shop guardian --chek"],
)
def test_a_wrong_name_in_the_text_is_found(code: str) -> None:
    assert list(code_faults(code)) != []


@pytest.mark.parametrize(
    "code", ["dead_letter.spool_dir", 'dlq restore ID --reason "..."', "guardrails doctor", "celery -A shop guardian"]
)
def test_a_right_name_in_the_text_is_right(code: str) -> None:
    assert list(code_faults(code)) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kill %1; wait", [["kill", "%1"], ["wait"]]),
        ("A=1 celery worker & # comment", [["celery", "worker"]]),
        ("kill $(cat a.pid) 2>/dev/null && ls | wc -l > x", [["kill"], ["cat", "a.pid"], ["ls"], ["wc", "-l"]]),
        ("for x in a b; do celery report; done", [["celery", "report"]]),
    ],
)
def test_a_line_falls_into_its_commands(line: str, words: list[list[str]]) -> None:
    assert list(command.commands_in(line)) == words, shlex.join(words[0])
