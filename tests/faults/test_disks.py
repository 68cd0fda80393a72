"""Full disks for experiments, and what the table says where there are none."""

import os
from pathlib import Path

import pytest

from .disks import disk
from .table import line, show_faults
from .verdict import Figures, Skipped


def test_a_full_disk_takes_nothing_until_it_has_room_again(tmp_path: Path) -> None:
    try:
        with disk(tmp_path / "small", 2) as small:
            small.fill()
            small.fill()
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "small" / "note").write_bytes(b"x")
            small.give_room()
            (tmp_path / "small" / "note").write_bytes(b"x")
    except Skipped as why:
        pytest.skip(str(why))
    assert not os.listdir(tmp_path / "small")


def test_a_disk_that_cannot_be_mounted_is_a_reason_to_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mount").write_text("#!/bin/sh\necho permission denied >&2\nexit 32\n")
    (tmp_path / "mount").chmod(0o700)
    (tmp_path / "umount").symlink_to("mount")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Skipped, match="permission denied"), disk(tmp_path / "small", 2):
        pass
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Skipped, match="not installed"), disk(tmp_path / "other", 2):
        pass


def test_what_was_skipped_is_shown_and_does_not_hold(capsys: pytest.CaptureFixture[str]) -> None:
    skipped = Skipped("nobody may mount here")
    held = Figures(acknowledged=1, lost=0, difference=0, adjusted=0, stuck=0, slowest=0, most_seconds=1)
    assert "skipped: nobody may mount here" in line("full", skipped)
    assert show_faults({"full": skipped}) == 0
    assert "holds." not in capsys.readouterr().out
    assert show_faults({"full": skipped, "other": held}) == 0
    assert "Skipped: 1, of which nobody knows whether they hold.\nEverything else holds." in capsys.readouterr().out
    assert show_faults({"full": skipped, "other": None}) == 1
