"""Bodies are taken back to the bytes that were published, whatever the client made of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_guardrails.transport.body import as_published


@given(st.binary(), st.sampled_from(["utf-8", "latin-1", "utf-16-le", "cp1252"]))
def test_what_the_client_decoded_is_encoded_again(published: bytes, encoding: str) -> None:
    try:
        decoded = published.decode(encoding)
        fits = decoded.encode(encoding) == published
    except ValueError:
        return
    if fits:
        assert as_published(decoded, encoding) == published


@pytest.mark.parametrize("encoding", [None, 7, "klingon", "ascii", "base64"])
def test_an_encoding_that_does_not_fit_counts_as_utf_8(encoding: Any) -> None:
    assert as_published("\u00e4\ud800", encoding) == b"\xc3\xa4\xed\xa0\x80"


@pytest.mark.parametrize("body", [None, 7, [], {}])
def test_what_is_no_body_is_empty(body: Any) -> None:
    assert as_published(body, "utf-8") == b""
