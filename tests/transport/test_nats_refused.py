"""What a server refuses is read from its words, and concerns the latest request to the subject."""

from __future__ import annotations

import pytest

from mbactor.transport.nats_refused import MANY, Asked, Refused, refused


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('Permissions Violation for Publish to "Rq.Bob.X"', Refused("publish", "Rq.Bob.X")),
        ('Permissions Violation for Publish with Reply of "_INBOX.a"', Refused("reply", "_INBOX.a")),
        ('Permissions Violation for Subscription to "Other.*"', Refused("subscribe", "Other.*")),
        ('Permissions Violation for Subscription to "a" using queue "Q"', Refused("subscribe", "a", "Q")),
        ('Permissions Violation for Subscription to "a.*" (sid "12")', Refused("subscribe", "a.*", sid=12)),
        (
            'Permissions Violation for Subscription to "a.*" using queue "Q" (sid "12")',
            Refused("subscribe", "a.*", "Q", 12),
        ),
        (r'Permissions Violation for Publish to "a\"b\\c"', Refused("publish", 'a"b\\c')),
        ("Authorization Violation", None),
        ("Maximum Payload Violation", None),
    ],
)
def test_it_is_read_from_the_text(text: str, what: Refused | None) -> None:
    assert refused(text) == what


def test_a_refusal_is_that_of_the_latest_request_to_its_subject() -> None:
    asked = Asked()
    for subject, reply in (("a", "1"), ("b", "2"), ("a", "3")):
        asked.add(subject, reply)
    assert [asked.take("a"), asked.take("a"), asked.take("a"), asked.take("b")] == ["3", "1", None, "2"]


def test_what_the_server_has_read_is_forgotten() -> None:
    asked = Asked()
    assert [asked.add("a", str(n)) for n in range(MANY)] == [False] * (MANY - 1) + [True]
    asked.mark()
    assert not any(asked.add("a", "new") for _ in range(MANY + 1)), "it was asked for a second time"
    assert asked.take("a") == str(MANY - 1), "one that the server cannot have read was refused"
    asked.confirm()
    assert asked.add("a", "latest"), "it has grown and nobody asks"
    assert [asked.take("a") for _ in range(MANY + 3)] == ["latest", *["new"] * (MANY + 1), None]
