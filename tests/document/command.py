"""The command lines in a block, each checked by the parser of the program that it starts.

Owns how a shell's line falls into commands, and which programs the documentation may name. Nothing is run, but what
makes a project's files (`made_by`).
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache

from tests.document import celery_line
from tests.harness import ROOT

__all__ = ["commands_in", "console_lines", "faults_in_command", "faults_in_line"]

_PROGRAMS = """
cat cd chmod chown clear cp createdb curl crontab deactivate echo exit flask getent git grep gunicorn head helm
install ip jobs journalctl jq kill kubectl less ls logger logrotate mkdir mount mv nproc psql rabbitmq-plugins
rabbitmqctl rabbitmqadmin redis-cli redis-server rm sed service set sh sleep source sqlite3 stat systemctl
systemd-analyze tail tee test touch trap umask useradd wait watch wc which export bash . [ apt-get
"""
_OTHERS_STARTER = "docker docker-compose env exec kubectl nohup podman runuser ssh su sudo time timeout xargs"
_SHELL_WORDS = "if then elif else fi for while until do done case esac ! { }"
KNOWN = frozenset(_PROGRAMS.split())
"""Other programs that a reader has; what they do is not checked."""
CARRIERS = frozenset(_OTHERS_STARTER.split())
"""Programs that start another one, which is looked for among their arguments."""
_KEYWORDS = frozenset(_SHELL_WORDS.split())
_SEPARATOR = re.compile(r"[;&|()\n]+")
_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)\+?=")
_PIP_OPTIONS = frozenset({"-q", "-U", "--upgrade", "--quiet", "-e", "--pre", "--no-cache-dir", "--editable"})


def console_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that a person types in a console block, and where they begin; a trailing backslash goes on below."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        number += 1
        if not line.startswith("$ "):
            continue
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + lines[number]
            number += 1
        yield start, line[2:]


def commands_in(line: str) -> Iterator[list[str]]:
    """The commands of one shell line, as words: what `&&`, `;`, `|`, `&` and brackets divide, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for token in [*lexer, ";"]:
        if skip:
            skip = False
        elif _SEPARATOR.fullmatch(token):
            if words := _bare(words):
                yield words
            words = []
        elif set(token) <= set("<>&|"):
            skip = True  # where it is redirected to; a number before it is a descriptor
            words = words[:-1] if words[-1:] in (["1"], ["2"]) else words
        else:
            words.append(token)


def _bare(words: list[str]) -> list[str]:
    """Without what only a shell reads: keywords, assignments, the `$` of a substitution."""
    if words and words[0] in ("for", "case"):
        return []
    words = [word for word in words if word != "$"]
    while words and (words[0] in _KEYWORDS or _ASSIGNMENT.match(words[0])):
        words = words[1:]
    return words


def faults_in_line(line: str, apps: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is wrong with a shell's line; `apps` are the modules that `celery -A` may name (`proj` always)."""
    try:
        commands = list(commands_in(line))
    except ValueError as error:
        yield f"{error}: {line}"
        return
    for words in commands:
        yield from (f"{fault}: {shlex.join(words)}" for fault in faults_in_command(words, apps))


def faults_in_command(words: Sequence[str], apps: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is wrong with one command."""
    program, *arguments = words
    program = os.path.basename(program)
    if program == "celery":
        yield from celery_line.faults(arguments, apps)
    elif re.fullmatch(r"pip3?", program):
        yield from _pip(arguments)
    elif re.fullmatch(r"python3?(\.\d+)?", program):
        yield from _python(arguments)
    elif program == "make":
        yield from (f"the Makefile has no target {each}" for each in arguments if _is_no_target(each))
    elif program == "django-admin":
        yield from _django(arguments)
    elif program in CARRIERS:
        yield from _carried(arguments, apps)
    elif program in ("sh", "bash") and arguments[:1] == ["-c"]:
        yield from faults_in_line(arguments[1], apps)
    elif program not in KNOWN:
        yield f"{program} is a program that tests/document/command.py does not know"


def _carried(arguments: Sequence[str], apps: frozenset[str]) -> Iterator[str]:
    """A command inside another one's arguments, where it can be found: ours, Python's and a shell's."""
    for number, word in enumerate(arguments):
        if os.path.basename(word) in ("celery", "python", "python3", "sh", "bash") and "=" not in word:
            yield from faults_in_command(arguments[number:], apps)
            return


def _pip(arguments: Sequence[str]) -> Iterator[str]:
    if arguments[:1] != ["install"]:
        yield f"pip {arguments[0] if arguments else ''} is not known"
    for word in arguments[1:]:
        found = re.fullmatch(r"(?P<name>[\w.-]+?|\.)(\[(?P<extras>[\w,-]+)\])?([<>=!~].*)?", word)
        if word.startswith("-") and word not in _PIP_OPTIONS:
            yield f"pip has no option {word} that the documentation needs"
        elif found and found["name"] in ("celery-guardrails", "."):
            missing = {extra for extra in (found["extras"] or "").split(",") if extra} - extras()
            yield from (f"celery-guardrails has no extra {extra}" for extra in sorted(missing))


@cache
def extras() -> frozenset[str]:
    """The extras that setup.cfg has."""
    import configparser

    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    return frozenset(setup["options.extras_require"])


def _python(arguments: Sequence[str]) -> Iterator[str]:
    if arguments[:1] == ["-m"]:
        name, *rest = arguments[1:]
        if name == "celery":
            yield from celery_line.faults(rest)
        elif name == "pip":
            yield from _pip(rest)
        elif importlib.util.find_spec(name) is None:
            yield f"there is no module {name}"
    elif arguments[:1] == ["-c"]:
        try:
            ast.parse(arguments[1])
        except SyntaxError as error:
            yield f"{error.msg} in the code"
    elif arguments and arguments[0].endswith("manage.py"):
        yield from _django(arguments[1:])


def _django(arguments: Sequence[str]) -> Iterator[str]:
    from django.core.management import get_commands

    # those of its own applications, which a project that is not set up does not know
    known = {*get_commands(), "createsuperuser", "changepassword", "collectstatic"}
    if not arguments or arguments[0] not in known:
        yield f"Django has no command {' '.join(arguments[:1])}"


@cache
def _targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _is_no_target(word: str) -> bool:
    return not word.startswith("-") and "=" not in word and word not in _targets()
