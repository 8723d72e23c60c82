"""What of a URL is recorded: never a password, a token or a query."""

from __future__ import annotations

import pytest

from paretovid.trainables.redaction.urls import (
    has_signature_alone,
    parts_of,
    recorded_settings,
    recorded_url,
    secrets_of,
    without_secrets_of,
    without_urls,
)

SIGNED = "https://b.s3.amazonaws.com/x.pth?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=60&X-Amz-Signature="


@pytest.mark.parametrize(
    ("url", "recorded"),
    [
        ("/videos/a?b=c.mp4", "/videos/a?b=c.mp4"),
        ("random", "random"),
        ("https://host/x.pth", "https://host/x.pth"),
        ("https://me@host/x.pth", "https://me@host/x.pth"),
        ("https://me:pass-word@host:8080/x.pth", "https://me@host:8080/x.pth"),
        ("https://me:pa/ss@word@host/x", "https://me@host/x"),
        ("https://ghp_abcdefgh12345678@host/x", "https://***@host/x"),
        ("https://a1b2c3d4e5f6a7b8c9d0e1f2@host/x", "https://***@host/x"),
        ("https://paretovid-service-account-1@host/x", "https://paretovid-service-account-1@host/x"),
        ("https://host/x.pth?id=3", "https://host/x.pth"),
        ("https://host/#access_token=abc", "https://host/"),
        ("http://host:5000/#/experiments/1?q=secret", "http://host:5000/#/experiments/1"),
        ("s3://key:secret@bucket/home", "s3://key@bucket/home"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("http://[::1]:5000/x@y", "http://[::1]:5000/x@y"),
        ("http://mlflow:5000/x@y", "http://mlflow:5000/x@y"),
        (
            "postgresql+psycopg2://me@host/x?sslmode=require",
            "postgresql+psycopg2://me@host/x?sslmode=require",
        ),
        ("postgresql://me:p@ss?#/w@host:5432/x", "postgresql://me@host:5432/x"),
        ("postgresql:///x?host=/run/pg&password=pw&port=1", "postgresql:///x?host=/run/pg&port=1"),
        ("sqlite:////home/a@b/x.db?mode=ro&key=pw", "sqlite:////home/a@b/x.db?mode=ro"),
        ("journal:///a/b@c:d", "journal:///a/b@c:d"),
    ],
)
def test_the_recorded_form(url: str, recorded: str) -> None:
    assert recorded_url(url) == recorded
    assert recorded_url(recorded) == recorded, "recording twice changes nothing"


def test_a_signed_url_is_the_same_when_its_signature_changes() -> None:
    assert recorded_url(SIGNED + "aaa") == recorded_url(SIGNED + "bbb") == "https://b.s3.amazonaws.com/x.pth"


@pytest.mark.parametrize(
    ("query", "alone"),
    [
        ("", True),
        ("?X-Amz-Signature=a&X-Amz-Security-Token=b&x-id=GetObject", True),
        ("?GoogleAccessId=a&Expires=1&Signature=b", True),
        ("?sv=2022&st=a&se=b&sr=b&sp=r&sig=c", True),
        ("?Policy=a&Key-Pair-Id=b&Signature=c&response-content-disposition=x", True),
        ("?access_token=abc", True),
        ("?download=true", True),
        ("?id=3&token=abc", False),
        ("?X-Amz-Signature=a&versionId=7", False),
    ],
)
def test_what_names_another_file_is_told_from_a_signature(query: str, alone: bool) -> None:
    assert has_signature_alone(f"https://host/x.pth{query}") is alone


def test_secrets_are_blotted_out_however_they_are_written() -> None:
    url = "postgresql://me:a%2Fb@host/x"
    assert secrets_of(url) == ["a%2Fb", "a/b"]
    assert without_secrets_of("a/b is wrong, a%2Fb too", url) == "*** is wrong, *** too"
    assert without_secrets_of("no host: c2VjcmV0 given", "https://h/x?sig=c2VjcmV0") == "no host: *** given"
    assert secrets_of("no url") == []


def test_settings_are_recorded_without_secrets_at_any_depth() -> None:
    settings = {"a": [{"b": SIGNED + "aaa"}, 3, None, True], "c": "see https://u:p@h/x for it", "d": "/a?b=c"}
    assert recorded_settings(settings) == {
        "a": [{"b": "https://b.s3.amazonaws.com/x.pth"}, 3, None, True],
        "c": "see https://u@h/x for it",
        "d": "/a?b=c",
    }


def test_parts() -> None:
    parts = parts_of("https://me:pw@host/x?a=1&b#c")
    assert parts is not None
    assert (parts.user, parts.password, parts.place, parts.fragment) == ("me", "pw", "host/x", "c")
    assert parts.parameters == {"a": "1", "b": ""}
    assert parts_of("random") is None
    assert without_urls("search.storage=db://me:p w@host") == "search.storage=db://***"
