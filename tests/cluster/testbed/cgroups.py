"""Control groups of the nodes: each node lives in one of its own, so that it can be found whole.

Below `node`. On cgroup v1 a group is a folder in every hierarchy, on v2 in the only one; the
kubelet makes its own groups inside.
"""

from __future__ import annotations

from pathlib import Path

from testbed.processes import wait_until

MOUNT_POINT = Path("/sys/fs/cgroup")
# cgroup v2 lets no process into a group that hands controllers to children.
RUNTIME_GROUP = "runtime"
EMPTY_SECONDS = 30


def list_hierarchies() -> list[Path]:
    """The roots of the mounted hierarchies: one for cgroup v2, one for each v1 controller."""
    if (MOUNT_POINT / "cgroup.controllers").exists():
        return [MOUNT_POINT]
    return sorted(path.parent for path in MOUNT_POINT.glob("*/cgroup.procs"))


def create_cgroup(name: str) -> list[Path]:
    """Make group ``name``; returns its ``cgroup.procs`` files, to which its processes go."""
    members = []
    for hierarchy in list_hierarchies():
        parent = hierarchy
        for part in (name, RUNTIME_GROUP):
            _pass_controllers_down(parent)
            group = parent / part
            group.mkdir(exist_ok=True)
            # On v1 a new cpuset is empty and lets no process in before it is filled.
            for file in ("cpuset.cpus", "cpuset.mems"):
                if (group / file).exists() and not (hierarchy / "cgroup.controllers").exists():
                    (group / file).write_text((parent / file).read_text())
            parent = group
        members.append(parent / "cgroup.procs")
    return members


def remove_cgroup(name: str) -> None:
    """Remove group ``name`` with its children, once the last process has left it."""
    wait_until(
        lambda: not _has_members(name), seconds=EMPTY_SECONDS, what=f"cgroup {name} to empty"
    )
    for hierarchy in list_hierarchies():
        for group in sorted(_walk(hierarchy / name), reverse=True):
            group.rmdir()


def find_cgroups(prefix: str) -> set[str]:
    """The names of the top groups that begin with ``prefix``."""
    return {path.name for root in list_hierarchies() for path in root.glob(f"{prefix}*")}


def _has_members(name: str) -> bool:
    return any(
        (group / "cgroup.procs").read_text()
        for hierarchy in list_hierarchies()
        for group in _walk(hierarchy / name)
    )


def _walk(group: Path) -> list[Path]:
    return [path for path in (group, *group.rglob("*")) if path.is_dir()]


def _pass_controllers_down(group: Path) -> None:
    available = group / "cgroup.controllers"
    if available.exists() and (wanted := available.read_text().split()):
        (group / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in wanted))
