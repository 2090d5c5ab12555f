from __future__ import annotations

from pathlib import Path

import pytest

from retinue.core.access import ClientRecord
from retinue.core.errors import CorruptArtifactError, StateUnavailableError
from retinue.store.accessfile import read_access, write_access


def test_what_was_written_is_read_and_the_same_again_writes_nothing(tmp_path: Path) -> None:
    assert write_access(tmp_path / "prod", "shop", [ClientRecord("web")])
    assert not write_access(tmp_path / "prod", "shop", [ClientRecord("web")])
    assert read_access(tmp_path / "prod" / "access").closed
    assert write_access(tmp_path / "prod", "shop", [])
    assert not read_access(tmp_path / "prod" / "access").closed


def test_every_damaged_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    write_access(tmp_path, "shop", [ClientRecord("web")])
    file = tmp_path / "access"
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptArtifactError):
            read_access(file)
        file.write_bytes(whole[:place])
        with pytest.raises(CorruptArtifactError):
            read_access(file)


def test_a_file_that_is_gone_or_no_file_is_told_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifactError, match="cannot be read") as gone:
        read_access(tmp_path / "access")
    assert "retinue clients list" in str(gone.value.hint)
    (tmp_path / "access").mkdir()
    with pytest.raises(CorruptArtifactError, match="cannot be read"):
        read_access(tmp_path / "access")
    with pytest.raises(StateUnavailableError):
        write_access(tmp_path, "shop", [])
