"""The release file: what was written is read, anything damaged is refused, the pointer moves in one step."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.core.errors import CorruptArtifactError, StateUnavailableError
from retinue.core.state import ReleaseImage, ServedEndpoint, ServedModel, ServedNeed
from retinue.store.releasefile import ReleaseFile, current, point, pointer, write_release


def _image(number: int = 4, fallback: str | None = "b") -> ReleaseImage:
    need = ServedNeed("b", "y", "col", {"f": "g"})
    a = ServedModel("a", "v1", "1" * 64, "onnx", {"inputs": [], "ä": [1.5, None]}, "env", (need,), family="f-{k}")
    b = ServedModel("b", "v2", "2" * 64, "skops", {"inputs": []}, "env")
    return ReleaseImage("p", "prod", number, {"b": b, "a": a}, {"e": ServedEndpoint("e", "f-{k}", fallback)})


def test_a_release_reads_back_as_it_was_written(tmp_path: Path) -> None:
    image = _image()
    path = write_release(tmp_path, image)
    assert path == tmp_path / "4.release"
    with ReleaseFile(path) as file:
        assert (file.portfolio, file.stage, file.number) == ("p", "prod", 4)
        assert file.models == ("a", "b")
        assert file.model("a") == image.models["a"]
        assert file.model("b") == image.models["b"]
        assert file.model("c") is None
        assert "a" in file
        assert file.endpoints == image.endpoints
    assert path.read_bytes() == write_release(tmp_path, image).read_bytes()


@settings(max_examples=60)
@given(st.data())
def test_one_changed_byte_or_a_cut_anywhere_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("release")
    content = bytearray(write_release(folder, _image()).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    (folder / "4.release").write_bytes(content)
    with pytest.raises(CorruptArtifactError) as caught:
        ReleaseFile(folder / "4.release")
    assert "4.release" in str(caught.value)
    assert "retinue" in caught.value.hint


def test_a_file_that_is_gone_empty_or_of_another_kind_says_so(tmp_path: Path) -> None:
    path = tmp_path / "1.release"
    with pytest.raises(CorruptArtifactError, match="it is gone"):
        ReleaseFile(path)
    path.write_bytes(b"")
    with pytest.raises(CorruptArtifactError, match="it is empty"):
        ReleaseFile(path)
    path.write_bytes(b"x" * 1000)
    with pytest.raises(CorruptArtifactError, match="it is no release file"):
        ReleaseFile(path)


def test_the_pointer_names_number_and_content(tmp_path: Path) -> None:
    assert current(tmp_path) is None
    write_release(tmp_path, _image(1))
    point(tmp_path, 1)
    assert current(tmp_path) == 1
    first = pointer(tmp_path)
    write_release(tmp_path, _image(1, fallback=None))
    point(tmp_path, 1)
    second = pointer(tmp_path)
    assert first is not None
    assert second is not None
    assert first.number == second.number
    assert first.digest != second.digest
    with pytest.raises(CorruptArtifactError, match="it is gone"):
        point(tmp_path, 2)
    assert pointer(tmp_path) == second
    (tmp_path / "current").write_text("no number")
    with pytest.raises(CorruptArtifactError, match="the release pointer says 'no number'"):
        current(tmp_path)
    (tmp_path / "current").write_text("9" * 30 + " digest")  # more than a status can say
    with pytest.raises(CorruptArtifactError, match="the release pointer says '9999"):
        current(tmp_path)
    (tmp_path / "current").unlink()
    os.mkfifo(tmp_path / "current")
    with pytest.raises(CorruptArtifactError, match="the release pointer is no file"):
        current(tmp_path)


def test_a_mapped_release_stays_readable_when_its_number_is_written_anew(tmp_path: Path) -> None:
    with ReleaseFile(write_release(tmp_path, _image(1))) as old:
        write_release(tmp_path, ReleaseImage("p", "prod", 1, {}, {}))
        assert old.model("a") == _image().models["a"]


def test_a_folder_that_takes_nothing_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StateUnavailableError, match=r"cannot write 4\.release"):
        write_release(blocked, _image())
