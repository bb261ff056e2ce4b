from __future__ import annotations

import re

import pytest

from testbed.binaries import BINARIES, MODULES, Binary


@pytest.mark.parametrize("binary", BINARIES.values(), ids=BINARIES)
def test_the_module_pins_the_version_that_the_name_says(binary: Binary) -> None:
    pins = (MODULES / binary.module / "go.mod").read_text()
    pinned = [
        version
        for path, version in re.findall(r"^\t(\S+) (v\S+)", pins, re.MULTILINE)
        if binary.package == path or binary.package.startswith(f"{path}/")
    ]
    assert any(binary.version in version for version in pinned)
    assert f"\t{binary.package}\n" in pins or f"tool {binary.package}\n" in pins


def test_a_changed_pin_is_another_build() -> None:
    etcd = BINARIES["etcd"]
    stamped = Binary(
        name=etcd.name,
        module=etcd.module,
        version=etcd.version,
        package=etcd.package,
        linker_flags="-X main.version=other",
    )
    assert stamped.path != etcd.path
