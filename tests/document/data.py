"""Blocks that are data: parsed as what they are, and the commands and variables in them checked as in a console.

Compose files and Kubernetes manifests, units of systemd, Dockerfiles, JSON, TOML and INI files.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from tests.document.command import faults_in_command, faults_in_line

__all__ = ["dockerfile_faults", "ini_faults", "json_faults", "toml_faults", "unit_faults", "yaml_faults"]

_UNIT_KEYS = {
    "Unit": "After Before Description Documentation PartOf Requires StartLimitBurst StartLimitIntervalSec Wants",
    "Service": (
        "CapabilityBoundingSet DynamicUser Environment EnvironmentFile ExecReload ExecStart ExecStartPost ExecStartPre"
        " ExecStop Group KillMode KillSignal LimitNOFILE MemoryMax NoNewPrivileges PrivateTmp ProtectHome ProtectSystem"
        " ReadWritePaths Restart RestartSec RuntimeDirectory SendSIGKILL StateDirectory StateDirectoryMode"
        " SyslogIdentifier TimeoutStartSec TimeoutStopSec Type UMask User WatchdogSec WorkingDirectory"
    ),
    "Install": "Also WantedBy",
    "Timer": "OnBootSec OnCalendar OnUnitActiveSec Persistent Unit",
}  # fmt: skip
_DOCKER = "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL RUN STOPSIGNAL USER VOLUME WORKDIR SHELL"
_INSTRUCTIONS = frozenset(_DOCKER.split())


def json_faults(text: str) -> Iterator[str]:
    """One JSON value, or one a line."""
    try:
        json.loads(text)
    except ValueError as whole:
        try:
            for line in text.splitlines():
                json.loads(line)
        except ValueError:
            yield f"no JSON: {whole}"


def toml_faults(text: str) -> Iterator[str]:
    """What is wrong with a TOML file."""
    toml = import_module("tomllib")  # from Python 3.11
    try:
        toml.loads(text)
    except ValueError as error:
        yield f"no TOML: {error}"


def ini_faults(text: str) -> Iterator[str]:
    """An INI file; one with a section of a unit's is read as a unit."""
    if re.search(rf"^\[({'|'.join(_UNIT_KEYS)})\]", text, re.MULTILINE):
        yield from unit_faults(text)
        return
    try:
        configparser.ConfigParser(interpolation=None).read_string(text)
    except configparser.Error as error:
        yield f"no INI file: {error}"


def unit_faults(text: str) -> Iterator[str]:
    """A unit of systemd: sections and keys that there are, and commands that work, by their whole path."""
    section = ""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        head = re.fullmatch(r"\[(\w+)\]", line.strip())
        if head:
            section = head[1]
            if section not in _UNIT_KEYS:
                yield f"no unit has a section {section}"
        elif line.strip() and not line.startswith(("#", ";")):
            key, equals, value = line.partition("=")
            if not equals or key.strip() not in _UNIT_KEYS.get(section, "").split():
                yield f"{section} has no key {key.strip()}"
            yield from _unit_value(key.strip(), value.strip())


def _unit_value(key: str, value: str) -> Iterator[str]:
    if key.startswith("Exec") and value:
        command = value.lstrip("-+!:@")
        if not command.startswith("/"):
            yield f"{key} wants the program's whole path: {command}"
        yield from faults_in_command(shlex.split(command))


def yaml_faults(text: str) -> Iterator[str]:
    """YAML documents: commands wherever they stand, and the volumes that a pod mounts."""
    import yaml

    try:
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        yield f"no YAML: {error}"
        return
    for document in documents:
        yield from _in_tree(document, _claimed(document))
        if isinstance(document, Mapping) and "apiVersion" in document and not _is_named(document):
            yield "a manifest needs a kind and a name"


def _is_named(manifest: Mapping[str, Any]) -> bool:
    return bool(manifest.get("kind") and (manifest.get("metadata") or {}).get("name"))


def _claimed(node: Any) -> frozenset[str]:
    """The volumes that a StatefulSet claims for its pods: beside their template, not in it."""
    claims = (node.get("spec") or {}).get("volumeClaimTemplates") or () if isinstance(node, Mapping) else ()
    return frozenset(claim["metadata"]["name"] for claim in claims)


def _in_tree(node: Any, claimed: frozenset[str]) -> Iterator[str]:
    if isinstance(node, Mapping):
        command = [*_words(node.get("command")), *_words(node.get("args"))]
        if command:
            yield from _command(command)
        if "test" in node:
            yield from _command(_words(node["test"]))
        yield from _unmounted(node, claimed)
        for value in node.values():
            yield from _in_tree(value, claimed)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _in_tree(value, claimed)


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return shlex.split(value)
    if isinstance(value, Sequence) and all(isinstance(word, (str, int)) for word in value):
        return [str(word) for word in value]
    return []


def _command(words: Sequence[str]) -> Iterator[str]:
    if words[:1] == ["CMD-SHELL"]:
        yield from faults_in_line(" ".join(words[1:]))
    else:
        words = words[1:] if words[:1] == ["CMD"] else words
        if words and words[0].startswith("-"):
            return  # arguments for an image's own program
        yield from faults_in_command(words)


def _unmounted(node: Mapping[Any, Any], claimed: frozenset[str]) -> Iterator[str]:
    """What the containers of a pod mount has to be among its volumes, or those that are `claimed` for it."""
    containers = node.get("containers")
    if not isinstance(containers, Sequence):
        return
    volumes = {volume["name"] for volume in node.get("volumes") or ()} | claimed
    for container in containers:
        for mount in container.get("volumeMounts") or ():
            if mount["name"] not in volumes:
                yield f"the pod has no volume {mount['name']}"


def dockerfile_faults(text: str) -> Iterator[str]:
    """A Dockerfile: instructions that there are, and the commands in them."""
    lines = [line for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip() and not line.startswith("#")]
    if not any(line.startswith("FROM ") for line in lines):
        yield "a Dockerfile begins with FROM"
    for line in lines:
        instruction, _, rest = line.strip().partition(" ")
        if instruction not in _INSTRUCTIONS:
            yield f"a Dockerfile has no instruction {instruction}"
        elif instruction == "HEALTHCHECK" and "CMD" in rest:
            yield from _docker_command(rest.partition("CMD")[2].strip())
        elif instruction in ("RUN", "CMD", "ENTRYPOINT"):
            yield from _docker_command(rest)


def _docker_command(text: str) -> Iterator[str]:
    if text.startswith("["):
        yield from faults_in_command(json.loads(text))
    else:
        yield from faults_in_line(re.sub(r"^(--\w+=\S+\s+)+", "", text))
