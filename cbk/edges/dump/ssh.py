"""Over SSH: the server runs one fixed command for our key, and its host key is pinned. No password of a database is here."""

from __future__ import annotations

import shlex
from pathlib import Path

from cbk.edges.dump.postgresql import explain_postgres
from cbk.edges.dump.process import Meaning, Program, Tick, find_meaning, last_line
from cbk.edges.dump.source import ProgramSource
from cbk.edges.dump.tools import find
from cbk.errors import DumpBroken, DumpError, DumpRefused, DumpUnavailable
from cbk.rules.dump.spec import DumpSpec

# Nobody is asked anything, nothing but the stream comes through, and a line that went dead is noticed within a minute.
_OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "ControlMaster": "no",
    "ControlPath": "none",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "3",
    "LogLevel": "ERROR",
}
_ALIAS = "cbk-dump-host"


def ssh_source(spec: DumpSpec, *, tick: Tick, scratch: Path) -> ProgramSource:
    """What the server sends for `dump NAME`, and where roles are kept, for `roles NAME`; a forced command may heed it or not."""
    asked = shlex.join(spec.command) if spec.command else f"dump {spec.name}"
    roles = _program(spec, f"roles {spec.name}", scratch) if spec.roles else None
    return ProgramSource(spec, _program(spec, asked, scratch), tick, roles=roles)


def _program(spec: DumpSpec, asked: str, scratch: Path) -> Program:
    target, _, port = spec.ssh.partition(":")
    options = dict(_OPTIONS)
    if spec.host_key:
        known = scratch / "known_hosts"
        known.write_text(f"{_ALIAS} {spec.host_key}\n", encoding="ascii")
        options |= {"HostKeyAlias": _ALIAS, "UserKnownHostsFile": str(known)}
        options |= {"GlobalKnownHostsFile": "/dev/null", "UpdateHostKeys": "no"}
    if spec.ssh_key:
        options |= {"IdentityFile": spec.ssh_key, "IdentitiesOnly": "yes"}
    if port:
        options["Port"] = port
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return Program(name=f"ssh {target}", arguments=[find("ssh"), "-T", *flags, "--", target, asked], explain=explain_ssh)


_MEANINGS = (
    Meaning(
        texts=("host key verification failed", "host identification has changed"),
        error=DumpRefused,
        sentence="the server's host key is not the one that is pinned, or none is",
        hint="compare it with the server's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then set host_key",
    ),
    Meaning(
        texts=("permission denied (",),
        error=DumpRefused,
        sentence="the server does not accept our key",
        hint="is the public key in the user's authorized_keys there?",
    ),
    Meaning(
        texts=(
            "could not resolve hostname",
            "port 22: connection",
            "connect to host",
            "no route to host",
            "network is unreachable",
        ),
        error=DumpUnavailable,
        sentence="the server cannot be reached by ssh",
    ),
    Meaning(
        texts=("connection closed", "connection reset", "broken pipe", "not responding", "closed by remote host"),
        error=DumpBroken,
        sentence="the ssh connection broke",
    ),
    Meaning(
        texts=("not found", "no such file or directory"),
        error=DumpRefused,
        sentence="the server lacks a program or a file",
        hint="install it there, or mend the forced command",
    ),
)


def explain_ssh(said: str) -> DumpError | None:
    """What ssh, or the tool at its other end, means, in one sentence; None where that is not known."""
    return find_meaning(said, _MEANINGS, last_line(said)) or explain_postgres(said)
