"""URLs without what is secret in them: the form in which settings are recorded, compared and shown.

A password, a user name that is a token, and the query are left out. A URL with a signature in its query is therefore
the same setting when its signature changes. Of a database's URL those parameters stay that say how to connect and hold
no secret, because they are needed to connect again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://")
_IN_TEXT = re.compile(_SCHEME.pattern + r"[^\s'\"<>`|\\]+")
_WEB = frozenset(("http", "https", "s3", "ftp", "ftps", "gs", "ws", "wss", "git", "ssh", "ray"))
"""Schemes whose authority ends at a slash. Others are databases', where SQLAlchemy reads a password up to the @."""
_KEPT = frozenset(
    (
        *("application_name", "cache", "channel_binding", "charset", "check_same_thread", "client_encoding"),
        *("connect_timeout", "gssencmode", "host", "isolation_level", "mode", "port", "service", "sslcert"),
        *("sslkey", "sslmode", "sslrootcert", "target_session_attrs", "timeout", "uri", "user"),
    )
)
"""Parameters of databases that are recorded. `sslkey` is the path of a file."""
_OF_SIGNATURES = re.compile(
    # Amazon, Google, Alibaba, Tencent; CloudFront and older kinds; Azure; tokens; what says only how to answer.
    r"x-(amz|goog|oss|cos)-.*|(aws|oss)accesskeyid|googleaccessid|signature|sign?|expires|policy|key-pair-id"
    r"|s[epvrti]|spr|sip|srt|ss|ske|skoid|sks|sktid?|skv|sdd|scid|[sn]aoid|suoid"
    r"|([a-z]+[_-])?(token|key|password|secret)|apikey|auth"
    r"|download|dl|x-id|response-.*|rsc[cdelt]",
    re.IGNORECASE,
)
_TOKEN = re.compile(
    r"(gh[a-z]_|github_pat_|glpat-|hf_|xox[a-z]-|dapi|sk-|pypi-|npm_)[\w-]{8,}"
    r"|(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{20,}"
)
"""A user name that is a token: of a known kind, or long, of letters and digits."""
_SHORTEST = 6
"""A shorter value of a parameter is not blotted out of texts: it would be found in too many words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UrlParts:
    """A URL, taken apart."""

    scheme: str
    """With `://`."""
    user: str
    password: str
    place: str
    """Host and path."""
    query: str
    fragment: str

    @property
    def has_secret_user(self) -> bool:
        """Whether it holds a password, or a token for a user name."""
        return bool(self.password) or bool(_TOKEN.fullmatch(self.user))

    @property
    def parameters(self) -> dict[str, str]:
        """Of the query, by name, as they stand there; one without a value has its own text for a name."""
        pairs = (pair.partition("=") for pair in re.split("[&;]", self.query) if pair)
        return {name: value for name, _, value in pairs}

    @property
    def unrecorded(self) -> dict[str, str]:
        """Parameters that are not recorded."""
        keeps = self.scheme.partition("://")[0].lower() not in _WEB
        return {name: v for name, v in self.parameters.items() if not (keeps and name.lower() in _KEPT)}


def parts_of(url: str) -> UrlParts | None:
    """The URL taken apart; None for a text that does not begin like one."""
    matched = _SCHEME.match(url)
    if matched is None:
        return None
    rest = url[matched.end() :]
    user, password, rest = _without_user(rest, matched[0].partition("://")[0].lower() in _WEB)
    rest, _, query = rest.partition("?")
    query, _, fragment = query.partition("#")
    place, _, before_query = rest.partition("#")
    return UrlParts(
        scheme=matched[0],
        user=user,
        password=password,
        place=place,
        query=query,
        fragment=before_query or fragment,
    )


def _without_user(rest: str, is_web: bool) -> tuple[str, str, str]:
    """User name, password, and what follows. A password may hold what a URL should have quoted."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if is_web and ("@" in authority or re.fullmatch(r"[^:]*|.*:[0-9]*|\[.*", authority)):
        before, at, after = authority.rpartition("@")
        user, _, password = before.partition(":")
        return (user, password, after + rest[len(authority) :]) if at else ("", "", rest)
    matched = re.match(r"([^:/@]*):(.+)@(.*)", rest, re.DOTALL) or re.match(r"([^:/@]+)()@(.*)", rest)
    return (matched[1], matched[2], matched[3]) if matched else ("", "", rest)


def recorded_url(url: str) -> str:
    """The URL as it is recorded, compared and shown; any other text as it is."""
    parts = parts_of(url)
    if parts is None:
        return url
    user = "***" if _TOKEN.fullmatch(parts.user) else parts.user
    hidden = parts.unrecorded
    kept = "&".join(f"{name}={value}" for name, value in parts.parameters.items() if name not in hidden)
    fragment = "" if "=" in parts.fragment or not parts.fragment else f"#{parts.fragment}"
    return f"{parts.scheme}{user}{'@' * bool(user)}{parts.place}{'?' * bool(kept)}{kept}{fragment}"


def has_signature_alone(url: str) -> bool:
    """Whether what is not recorded of the URL's query only gives the right to read: it names no other file."""
    parts = parts_of(url)
    return parts is None or all(_OF_SIGNATURES.fullmatch(name) for name in parts.unrecorded)


def urls_in(text: str) -> list[str]:
    """The text, if it is a URL as a whole; else the URLs in it."""
    return [text] if _SCHEME.match(text) else _IN_TEXT.findall(text)


def without_urls_secrets(text: str) -> str:
    """The text with every URL in it as it is recorded."""
    return _IN_TEXT.sub(lambda found: recorded_url(found[0]), text)


def without_urls(word: str) -> str:
    """A word that could not be read, without the URL in it: where a secret in that ends cannot be told either."""
    before, scheme, _ = word.partition("://")
    return f"{before}{scheme}***" if scheme else word


def secrets_of(url: str) -> list[str]:
    """What is secret in a URL, as it stands there and as it is meant, the longest first."""
    parts = parts_of(url)
    if parts is None:
        return []
    found = {parts.password, parts.user if _TOKEN.fullmatch(parts.user) else ""}
    found.add(parts.password.partition("@")[0])  # where SQLAlchemy ends it; URLs do at the last one
    found |= {
        value
        for name, value in parts.unrecorded.items()
        if len(value) >= _SHORTEST or "password" in name.lower()
    }
    found |= {unquote(secret) for secret in found}
    return sorted(found - {""}, key=len, reverse=True)


def without_secrets_of(text: str, url: str) -> str:
    """The text without the URL's secrets, however they are written: for the messages of what was given the URL."""
    for secret in secrets_of(url):
        text = text.replace(secret, "***")
    return text


def recorded_settings(settings: Any) -> Any:
    """Plain data with every URL in it as it is recorded."""
    if isinstance(settings, Mapping):
        return {name: recorded_settings(value) for name, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [recorded_settings(value) for value in settings]
    if isinstance(settings, str):
        return recorded_url(settings) if _SCHEME.match(settings) else without_urls_secrets(settings)
    return settings
