"""The folders of a host are held by the living and removed for the dead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmtrain_trainer.checkpoint.host_memory import HostMemory

HOLD = """
import sys
from pathlib import Path
from llmtrain_trainer.checkpoint.host_memory import HostMemory
memory = HostMemory([Path(sys.argv[1])])
print(memory.folders[0], flush=True)
sys.stdin.read()
"""


def test_folders_of_a_killed_agent_are_removed_by_the_next(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        (held / "part").write_bytes(b"state")
        second = HostMemory([tmp_path])
        assert held.exists()  # its holder lives
        holder.kill()
    third = HostMemory([tmp_path])
    assert not held.exists()
    assert second.folders[0].exists()
    second.close()
    third.close()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_written_are_left_out(tmp_path: Path) -> None:
    memory = HostMemory([tmp_path / "missing", tmp_path])
    assert [folder.parent for folder in memory.folders] == [tmp_path]
    memory.close()
