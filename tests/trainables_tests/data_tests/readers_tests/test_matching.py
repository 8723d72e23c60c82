from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path

import pytest

from paretovid.trainables.data.readers.matching import VideoFiles, list_files
from paretovid.trainables.errors import DataError, UnavailableDataError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(files, *names):
    path = files.find(names)
    return None if path is None else path.relative_to(files.root).as_posix()


def test_the_last_parts_of_a_path_decide(tmp_path):
    make(tmp_path, "P03/cam01/P03_tea.avi", "P03/cam02/P03_tea.avi", "v_-a.b.mp4", "V_abc.mkv", "notes.txt")
    files = VideoFiles(str(tmp_path))
    assert found(files, "P03/cam02/P03_tea") == "P03/cam02/P03_tea.avi"
    assert found(files, "v_-a.b") == "v_-a.b.mp4"  # a dot in a name is no suffix
    assert found(files, "v_abc", "V_abc") == "V_abc.mkv"  # ids differ in case
    assert found(files, "3/cam02/P03_tea", "notes", "missing") is None
    assert not files.ambiguous
    assert found(files, "P03_tea") == "P03/cam01/P03_tea.avi" and files.ambiguous == ["P03_tea"]


def test_names_with_suffixes_find_converted_files(tmp_path):
    make(tmp_path, "panda/a.mp4", "b.webm")
    files = VideoFiles(str(tmp_path))
    assert found(files, "panda/a.flv") == "panda/a.mp4" and found(files, "b.webm") == "b.webm"


def test_a_list_of_paths(tmp_path):
    make(tmp_path, "far/a.mp4", "near/b.mp4")
    listed = tmp_path / "lists" / "videos.txt"
    make(tmp_path, "lists/videos.txt")
    listed.write_text(f"{tmp_path}/far/a.mp4\n../near/b.mp4\n")
    files = VideoFiles(str(listed))
    assert files.find(["a"]) == tmp_path / "far/a.mp4"
    assert Path(files.find(["b"]) or tmp_path).resolve() == tmp_path / "near/b.mp4"


@pytest.mark.parametrize(("on_disk", "annotated"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_normal_form(tmp_path, on_disk, annotated):
    there, asked = (
        unicodedata.normalize(form, "\u00e9t\u00e9/caf\u00e9.mp4") for form in (on_disk, annotated)
    )
    make(tmp_path, f"v/{there}")
    for name in (asked, asked.removesuffix(".mp4"), f"{tmp_path}/v/{asked}"):
        assert VideoFiles(str(tmp_path / "v")).find([name]) == tmp_path / "v" / there
    (tmp_path / "list.txt").write_text(f"v/{asked}\n")
    assert VideoFiles(str(tmp_path / "list.txt")).find([there]) == tmp_path / "v" / there


def test_files_with_other_suffixes_are_known(tmp_path):
    make(tmp_path, "a/b.vob", "notes.txt", ".hidden.vob")
    with pytest.raises(DataError, match=r"has no video \(2 other files, such as notes\.txt\)"):
        VideoFiles(str(tmp_path))
    make(tmp_path, "c.mp4")
    assert VideoFiles(str(tmp_path)).others == ["notes.txt", "a/b.vob"]


def test_links_to_folders_are_followed_once(tmp_path):
    make(tmp_path, "real/a.mp4")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "real")
    assert list(VideoFiles(str(tmp_path / "videos")).paths) == ["link/a.mp4"]


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="has no video"):
        VideoFiles(str(tmp_path))
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no video"):
        VideoFiles(str(tmp_path / "list.txt"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOENT])
def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path, monkeypatch, code):
    """Injected below `os.walk`: tests may run as root, who may list everything."""
    make(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    list_folder = os.scandir

    def refuse(path):
        if str(path).endswith("train/b"):
            raise OSError(code, os.strerror(code), str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (lambda: VideoFiles(str(tmp_path)), lambda: list(list_files(tmp_path))):
        with pytest.raises(
            UnavailableDataError, match=f"train/b cannot be listed: {os.strerror(code)}"
        ) as error:
            read()
        assert error.value.hint
    assert VideoFiles(str(tmp_path / "val")).paths == ["a/3.mp4"]
