"""Commands that are printed can be typed as they stand."""

from __future__ import annotations

import pytest

from paretovid.platform.console.shell import with_home


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Run `paretovid extract data=x`.", "Run `paretovid extract data=x 'home=/a b;c'`."),
        ("`paretovid resume S`, `x`", "`paretovid resume S 'home=/a b;c'`, `x`"),
        ("see `paretovid sweep --help`", "see `paretovid sweep --help`"),
        ("`paretovid resume S home=/x`", "`paretovid resume S home=/x`"),
        ("`paretovid resume S 'home=/x y'`", "`paretovid resume S 'home=/x y'`"),
        ("`mlflow ui`, paretovid runs", "`mlflow ui`, paretovid runs"),
    ],
)
def test_commands_find_the_home_that_was_given(text: str, shown: str) -> None:
    assert with_home(text, "/a b;c") == shown
    assert with_home(text, None) == text
