"""Credentials in URLs are hidden, and nothing else is."""

import pytest

from configs.output.secrets import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:hush@host:8080/a", "https://***@host:8080/a"),
        ("error: 'https://hush@host/a{0..3}.tar': 401", "error: 'https://***@host/a{0..3}.tar': 401"),
        ("https://me:hu@sh@host/a@b", "https://***@host/a@b"),
        ("[https://a:hush@h/x,http://b:hush@h/y]", "[https://***@h/x,http://***@h/y]"),
        ("s3://key:hush@bucket/a", "s3://***@bucket/a"),
        ("data.shards=https://h/a?sig=hush&se=hush: gone", "data.shards=https://h/a?sig=***&se=*** gone"),
        ("(url='https://h/a?X-Amz-Signature=hush')", "(url='https://h/a?X-Amz-Signature=***')"),
        ("HTTPS://me:hush@h/a", "HTTPS://***@h/a"),
        ("http://me:hu/sh@h/a", "http://***@h/a"),
        ("http://me:hu/s@h@h:80/a", "http://***@h:80/a"),
        ("https://h/a;jsessionid=hush?x=hush#token=hush", "https://h/a;jsessionid=***#token=***"),
    ],
)
def test_credentials_are_hidden(text: str, shown: str) -> None:
    assert masked(text) == shown and masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "abfs://container@account.dfs.core.windows.net/a",
        "s3://bucket/train-00000?.tar",
        "https://host/a@b/train-{000..146}.tar",
        "someone@example.org: /data/a?b=c",
        "file:///data/x",
        "https://host:8080/a@b/c.tar",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert masked(text) == text
