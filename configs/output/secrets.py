"""Credentials in URLs, hidden wherever a text is shown or kept."""

from __future__ import annotations

import re

HIDDEN = "***"

_URL = re.compile(r"\S+://\S+")
_USER = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/]*|[^\s/:]+:(?!\d+/)[^\s,]*)@", re.IGNORECASE)
"""The second form is a password with a slash, which belongs there as %2F."""
_QUERY = re.compile(r"([?&;#][^\s?&;#=/'\"]+=)[^\s&;#'\"]+")


def masked(text: str) -> str:
    """Text without the credentials of its URLs: `https://***@host/x?signature=***`.

    A name before @ alone is a credential on web servers only: in `abfs://container@account/x` it is a place.
    """
    return _URL.sub(lambda url: _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(_without_user, url[0])), text)


def is_masked(text: str) -> bool:
    """True if credentials are hidden in the text, so that its URLs cannot be read."""
    return f"://{HIDDEN}@" in text or f"={HIDDEN}" in text


def _without_user(found: re.Match[str]) -> str:
    scheme, user = found.groups()
    secret = ":" in user or scheme.lower().startswith(("http", "ftp"))
    return f"{scheme}://{HIDDEN}@" if secret else found[0]
