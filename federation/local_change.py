"""Replacing a member of a local federation: keys, folder and process of the new one, and the file
that operators vote for.

Source: consensus:C83, consensus:C85, peg:8.1.
"""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.config import FederationFile, MemberConfig
from federation.files import FileLayer, replace_file
from federation.founding import MemberPorts, add_member
from federation.local import LocalFederation
from federation.local_state import LocalError, LocalMember, LocalState, PortChooser
from federation.member_change import MemberChange
from federation.member_entry import MemberEntry


def plan_replacement(
    federation: LocalFederation, status: dict[str, Any], old: str, not_before: int | None
) -> MemberChange:
    """Make the member that takes another one's place, and the change; nothing votes for it yet.

    The folder must be locked. The new member's process is not started here.

    Args:
        status: what a member answers to `getchange`.
        old: name of who leaves.
    Raises:
        LocalError: who leaves is not in the set in force.
        InvalidConfig, OSError: the change cannot be made.
    """
    state = federation.require_state()
    file = federation.load_federation(state)
    people = {entry.name: entry for entry in file.people}
    leaves = federation.find_member(state, old).name
    if leaves not in status["members"]:
        raise LocalError(
            f"{leaves} is not in the set in force: it has {', '.join(status['members'])}"
        )
    joins = _make_member(federation, state, file)
    chosen = [joins if name == leaves else people[name] for name in status["members"]]
    change = MemberChange(
        not_before=not_before or status["height"] + 1,
        k=state.k,
        members=tuple(chosen),
        fedpegscript=bytes.fromhex(status["fedpegscript"]),
    )
    changed = replace(file, changes=(*file.changes, change))
    changed.check(allow_no_byzantine_safety=state.allow_no_byzantine_safety)
    changed.save(federation.folder.federation_file)
    member = LocalMember(
        name=joins.name,
        index=joins.index,
        port=joins.port,
        rpc_port=MemberConfig.load(federation.folder.member(joins.name)).rpc_port,
        esplora_port=MemberConfig.load(federation.folder.member(joins.name)).esplora_port,
    )
    federation.folder.save(replace(state, members=(*state.members, member)))
    return change


def write_change(change: MemberChange, path: Path) -> None:
    """Write the file that operators read and vote for.

    Raises:
        OSError: the disk refused.
    """
    text = json.dumps(change.to_json(), indent=2) + "\n"
    replace_file(FileLayer(), path, text.encode(), mode=0o644)


def _make_member(
    federation: LocalFederation, state: LocalState, file: FederationFile
) -> MemberEntry:
    index = max(entry.index for entry in file.people) + 1
    ports = PortChooser({port for m in state.members for port in (m.port, m.rpc_port)})
    chosen = MemberPorts(link=ports.choose(), rpc=ports.choose(), esplora=ports.choose())
    config = MemberConfig.load(federation.folder.member(state.members[0].name))
    return add_member(
        federation.folder.member("").absolute(),
        replace(config, index=index),
        f"m{index}",
        chain_name=file.chain_name,
        ports=chosen,
        entropy=os.urandom,
        unix_time_s=int(time.time()),
    )
