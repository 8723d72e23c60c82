from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from paretovid.trainables.data.readers.files import (
    ClassList,
    existing,
    file_in,
    files_named,
    interval,
    read_class_list,
    read_json,
    read_lines,
    read_table,
    read_text,
)
from paretovid.trainables.errors import DataError, UnavailableDataError, UsageError


def test_lines_of_windows_and_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffcafé 1\r\n\r\n  last line \r\n".encode())
    assert list(read_lines(path)) == [(f"{path}:1", "café 1"), (f"{path}:3", "last line")]


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"good\ncaf\xe9\n", 2, "byte 0xe9 is not UTF-8"),
        ("a,b\n".encode("utf-16"), 1, "UTF-16"),
        (b"a\nb\nc\0d", 3, "zero byte"),
    ],
    ids=["latin-1", "utf-16", "binary"],
)
def test_text_in_another_encoding_is_refused_with_its_line(tmp_path, data, line, reason):
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        read_text(path)
    assert f"{path}:{line}:" in caught.value.message
    assert caught.value.hint


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv is a named pipe, not a file"):
        read_text(tmp_path / "a.csv")
    with pytest.raises(DataError, match="/dev/zero is a device, not a file"):
        read_text(Path("/dev/zero"))


def test_json_errors_name_the_line_or_the_key(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(DataError, match=r"a\.json:2: not JSON"):
        read_json(path)
    path.write_text('{"videos": {"x": 1, "y": 2, "x": 3}}')
    with pytest.raises(DataError, match="the key 'x' is there twice"):
        read_json(path)


def test_table_rows_know_their_line_even_after_a_cell_of_two(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,script\r\na,"one\r\ntwo, three"\r\n\r\nb,""\r\n')
    assert list(read_table(path, ["id"])) == [
        (f"{path}:2", {"id": "a", "script": "one\ntwo, three"}),
        (f"{path}:5", {"id": "b", "script": ""}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: the column id, label is missing"),
        ("id,other\n", r":1: the column label is missing \(found: id, other\)"),
        ("id,label\na,b,c\n", ":2: 3 cells for 2 columns"),
        ('id,label\na,b\nc,"d"e\n', ":3:"),
        ("id;label\na;b\n", ":1: the columns are divided by semicolons, not by commas"),
        ("id\tlabel\na\tb\n", ":1: the columns are divided by tabs, not by commas"),
        ("id,label\na,b\nc;d\n", ":3: 1 cells for 2 columns: this line is divided by semicolons"),
        ("id,label\na,b,\n", ":2: 3 cells for 2 columns: the line ends in 1 of the commas too many"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        list(read_table(path, ["id", "label"]))
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "names", "ids"),
    [
        (
            'abseiling\n"giving or receiving award"\nair drumming\n',
            ("abseiling", "giving or receiving award", "air drumming"),
            (),
        ),
        ("9\tBasketballDunk\r\n7, BaseballPitch\r\n", ("BaseballPitch", "BasketballDunk"), (7, 9)),
        ("0\tarchery\n1\tplaying cards\n", ("archery", "playing cards"), (0, 1)),
        ("id,name\n0,abseiling\n1,air drumming\n", ("abseiling", "air drumming"), (0, 1)),
        ("3D printing\ncooking\n", ("3D printing", "cooking"), ()),
    ],
    ids=["names", "gaps, not in order", "tabs", "csv with a head", "a name that begins with a number"],
)
def test_class_lists(tmp_path, text, names, ids):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    classes = read_class_list(path)
    assert (classes.names, classes.ids) == (names, ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", "names the class 'a' twice"),
        ("1\ta\n1\tb\n", "gives two classes the number 1"),
        ("a\n", "lists 1 class: a"),
        ("", r"lists 0 class: \(none\)"),
    ],
)
def test_bad_class_lists(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_list(path)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((), ("1 hand", "2 hands")),
        (("foot",), ("1 hand", "2 hands")),
        (("1 hand", "2 hands"), ("1 hand", "2 hands")),
        (("hand",), ("hand", "hands")),
        (("2 hands", "3 feet"), ("1 hand", "2 hands")),
    ],
)
def test_numbers_belong_to_the_names_that_the_annotations_use(tmp_path, labels, names):
    path = tmp_path / "classes.txt"
    path.write_text("1 hand\n2 hands\n")
    assert read_class_list(path, labels).names == names


def test_a_number_before_a_tab_or_in_a_published_list_is_no_part_of_the_name(tmp_path):
    path = tmp_path / "classes.txt"
    for text in ("1\thand\n2\thands\n", "1, hand\n2, hands\n", "id,name\n1,hand\n2,hands\n"):
        path.write_text(text)
        assert read_class_list(path).names == ("hand", "hands")
    path.write_text("1 hand\n2 hands\n")
    assert read_class_list(path, is_numbered=True).names == ("hand", "hands")


def test_class_names_that_differ_only_in_their_normal_form():
    with pytest.raises(DataError, match="twice"):
        ClassList(names=("caf\u00e9", "cafe\u0301"), source="classes.txt")
    assert ClassList(names=("caf\u00e9", "b"), source="classes.txt").number("cafe\u0301", "x:1") == 0


def test_labels_that_are_not_in_the_list():
    classes = ClassList(names=("archery", "surfing"), source="classes.txt", ids=(1, 2))
    assert classes.number("surfing", "x:1") == 1 and classes.number_of_id("1", "x:1") == 0
    with pytest.raises(DataError, match=r"x:1: the label 'surfin' is not in classes\.txt") as caught:
        classes.number("surfin", "x:1")
    assert "'surfing'" in caught.value.hint and "data.classes" in caught.value.hint
    for bad in ("0", "3", "-1", "one"):
        with pytest.raises(DataError, match=f"x:2: the label '{bad}'") as caught:
            classes.number_of_id(bad, "x:2")
        assert "1 to 2" in caught.value.hint


@pytest.mark.parametrize("times", [("2", "1"), ("-1", "1"), ("a", "1"), ("nan", "1"), (None, 1), (True, 2)])
def test_bad_intervals(times):
    with pytest.raises(DataError, match="x:3:") as caught:
        interval(times[0], times[1], "x:3")
    assert caught.value.hint


def test_paths_that_are_not_there_say_what_is(tmp_path):
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(UsageError, match=r"data\.annotations=.*no such file") as caught:
        existing(str(tmp_path / "tran.csv"), "data.annotations")
    assert "train.csv" in caught.value.hint
    with pytest.raises(UsageError, match="is a folder"):
        existing(str(tmp_path), "data.annotations", folder=False)
    with pytest.raises(UsageError, match=r"no val\.csv") as caught:
        file_in(tmp_path, "val.csv", "the test videos")
    assert "train.csv" in caught.value.hint


def test_annotations_below_a_folder_that_cannot_be_listed_are_not_taken_for_missing(tmp_path, monkeypatch):
    """Injected below `os.walk`: tests may run as root, who may list everything."""
    for name in ("a/P01.txt", "b/P02.txt", "b/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert files_named(tmp_path, "P*.txt") == [tmp_path / "a/P01.txt", tmp_path / "b/P02.txt"]
    assert file_in(tmp_path, "b/x.txt", "the classes") == tmp_path / "b/x.txt"
    list_folder = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return list_folder(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for read in (lambda: files_named(tmp_path, "P*.txt"), lambda: file_in(tmp_path, "x.txt", "the classes")):
        with pytest.raises(UnavailableDataError, match="b cannot be listed: Permission denied"):
            read()
