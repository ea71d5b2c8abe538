"""Addresses and subjects: every address survives the way through a subject and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import AddressTooLong, BadRequest, DeclarationError
from mbactor.transport.address import Address, check_host, kebab, parse_host
from mbactor.transport.bus import check_pattern, matches
from mbactor.transport.subjects import (
    answered_by,
    endpoint_pattern,
    escape,
    host_of,
    host_token,
    inbox_pattern,
    own_inbox,
    parse_request,
    path_arguments,
    path_names,
    reply_subject,
    request_subject,
    unescape,
)

hosts = st.from_regex(r"[a-z0-9-]{1,8}(\.[a-z0-9-]{1,8}){0,3}", fullmatch=True).filter(
    lambda host: not host.startswith(("id-", "loc-"))
)
paths = st.lists(st.text(max_size=8), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(part.replace("/", "") for part in parts)
)
addresses = st.builds(
    Address,
    host=hosts,
    path=paths,
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    port=st.integers(1, 65535),
    replica=st.none() | st.from_regex(r"id-[a-z0-9]{1,10}", fullmatch=True),
)


@given(st.text())
def test_any_text_survives_as_one_token(text: str) -> None:
    token = escape(text)
    assert unescape(token) == text
    assert token
    assert not set(token) & set(".*> \t\r\n")


@given(hosts | st.text())
def test_a_host_is_one_token(host: str) -> None:
    assert host_of(host_token(host)) == host
    assert "." not in host_token(host)


@given(addresses, hosts)
def test_an_address_and_its_source_survive_the_subject(address: Address, source: str) -> None:
    parsed = parse_request(request_subject("plane1", source, address))
    assert parsed.address == address
    assert parsed.source == source
    assert parsed.plane == "plane1"


@given(addresses, addresses, hosts)
def test_two_addresses_never_share_a_subject(one: Address, other: Address, source: str) -> None:
    same = request_subject("p", source, one) == request_subject("p", source, other)
    assert same == (one == other)


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        (Address("orders.example", "/place"), "p.safe.443.ada_example.orders_example._.post.place"),
        (Address("orders.example", "/"), "p.safe.443.ada_example.orders_example._.post._"),
        (Address("o", "/a.b/c_d", "GET", 444), "p.safe.444.ada_example.o._.get.a%2eb.c%5fd"),
        (Address("o", "/x", port=666, replica="id-1a"), "p.danger.666.ada_example.o.id-1a.post.x"),
        (Address("o", "/ü"), "p.safe.443.ada_example.o._.post.%c3%bc"),
    ],
)
def test_golden_subjects(address: Address, subject: str) -> None:
    assert request_subject("p", "ada.example", address) == subject


@pytest.mark.parametrize(
    ("address", "pattern"),
    [
        (Address("o", "/x"), "p.safe.443.*.o._.post.x"),
        (Address("o", "/x", "ANY"), "p.safe.443.*.o._.*.x"),
        (Address("o", "/x", port=0), "p.safe.*.*.o._.post.x"),
        (Address("o.p", "/x", port=666), "p.danger.666.*.o_p._.post.x"),
        (Address("o", "/{id}"), "p.safe.443.*.o._.post.*"),
        (Address("o", "/a/{id}/b.c/{}"), "p.safe.443.*.o._.post.a.*.b%2ec.*"),
        (Address("o", "/files/{path...}"), "p.safe.443.*.o._.post.files.>"),
        (Address("o", "/a/x{id}"), "p.safe.443.*.o._.post.a.x%7bid%7d"),
        (Address("o", "/"), "p.safe.443.*.o._.post._"),
    ],
)
def test_golden_patterns(address: Address, pattern: str) -> None:
    assert endpoint_pattern("p", address) == pattern
    assert check_pattern(pattern)


segments = st.text(min_size=1, max_size=6).map(lambda text: text.replace("/", "") or "x")


@given(st.lists(segments, min_size=1, max_size=4), st.data(), st.booleans())
def test_a_pattern_takes_what_fits_its_arguments_and_nothing_else(
    parts: list[str], data: st.DataObject, greedy: bool
) -> None:
    holes = data.draw(st.lists(st.booleans(), min_size=len(parts), max_size=len(parts)))
    declared = ["{a}" if hole else part for part, hole in zip(parts, holes, strict=True)]
    declared += ["{rest...}"] if greedy else []
    pattern = tuple(endpoint_pattern("p", Address("o.p", "/" + "/".join(declared))).split("."))

    def fits(*path: str) -> bool:
        return matches(pattern, tuple(request_subject("p", "s", Address("o.p", "/" + "/".join(path))).split(".")))

    assert fits(*parts, "more", "yet") == greedy
    assert fits(*parts, "") == greedy
    assert fits(*parts) != greedy
    other = [f"{part}." if not hole else part for part, hole in zip(parts, holes, strict=True)]
    if not all(holes):
        assert not fits(*other, *(["more"] if greedy else []))


def test_a_subscription_too_long_for_a_subject_is_refused_too() -> None:
    with pytest.raises(AddressTooLong, match="limit is 1024"):
        endpoint_pattern("p", Address("o", "/" + "x" * 1100))


def test_a_reply_goes_to_the_requesters_own_inbox() -> None:
    subject = reply_subject("p", "server.example", "ada.example", "id-1", "7")
    assert subject == "p.reply._.server_example.ada_example.id-1.7"
    assert inbox_pattern("p", "id-1") == "p.reply._.*.*.id-1.*"


def test_only_the_inbox_of_who_the_broker_has_verified_is_its_own() -> None:
    subject = request_subject("p", "shop.example", Address("orders.example", "/place"))
    reply = reply_subject("p", "orders.example", "shop.example", "id-1", "17")
    assert own_inbox(subject, reply) == "p.reply._.orders_example.shop_example.id-1"
    others = [
        reply_subject("p", "orders.example", "bank.example", "id-1", "17"),
        request_subject("p", "orders.example", Address("shop.example", "/x")),
        *(reply + more for more in (".18", "\r\n", " 1", "\x7f")),
        reply.replace("id-1", "id-1\r\nPUB"),
        reply_subject("q", "orders.example", "shop.example", "id-1", "17"),
        reply.rpartition(".")[0],
        "",
    ]
    assert [one for one in others if own_inbox(subject, one)] == [reply + " 1"]  # which `publish` refuses


def test_who_answers_for_an_event_of_another_host_does_so_in_its_own_name() -> None:
    reply = reply_subject("p", "shop.example", "orders.example", "id-1", "17")
    assert answered_by("books.example", reply) == "p.reply._.books_example.orders_example.id-1.17"


def test_the_longest_subject_has_1024_characters() -> None:
    rest = len(request_subject("p", "ada.example", Address("o", "/")).removesuffix("_"))
    longest = "/" + "x" * (1024 - rest)
    assert len(request_subject("p", "ada.example", Address("o", longest))) == 1024
    with pytest.raises(AddressTooLong, match="of 1025 characters; the limit is 1024"):
        request_subject("p", "ada.example", Address("o", longest + "x"))
    spare = len("ada_example") - len("*")
    assert len(endpoint_pattern("p", Address("o", longest + "x" * spare))) == 1024
    with pytest.raises(AddressTooLong):
        endpoint_pattern("p", Address("o", longest + "x" * (spare + 1)))


def test_an_address_too_long_for_a_subject_is_refused_with_414() -> None:
    with pytest.raises(AddressTooLong, match="limit is 1024") as refused:
        request_subject("p", "ada.example", Address("o", "/" + "x" * 1100))
    assert refused.value.status == 414
    assert refused.value.taken == "no"


@given(addresses)
def test_a_url_is_read_as_it_was_written(address: Address) -> None:
    if not set("?#[]\t\r\n;") & set(address.path) and address.path.isascii() and address.path.isprintable():
        assert Address.parse(str(address), address.method) == address


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://", "has no valid host; expected https://host"),
        ("https://a b/x", "has no valid host"),
        ("https://x:99999/", "has no valid port: Port out of range"),
        ("https://UP_per/x", "has no valid host"),
        ("//:1/", "has no valid host"),
        ("https://[x/y", "has no valid host: Invalid IPv6 URL"),
        ("https://x\u2100y/", "has no valid host: netloc"),
        ("https://x:0/y", "has no valid port: 0 stands for any in a route"),
        ("ftp://x/y", "has no valid scheme: 'ftp'; expected https://host"),
        ("https://x/a\nb", "has no valid path: a tab or an end of line"),
        ("https://x/a\tb", "has no valid path"),
    ],
)
def test_a_bad_url_is_refused_by_name(url: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why) as refused:
        Address.parse(url)
    assert repr(url) in str(refused.value)
    assert refused.value.taken == "no"


@pytest.mark.parametrize("method", ["", "ANY", "any"])
def test_a_message_has_one_method(method: str) -> None:
    with pytest.raises(BadRequest, match=f"{method!r} is no valid method; expected one") as refused:
        Address.parse("https://x/y", method)
    assert refused.value.taken == "no"


@pytest.mark.parametrize(
    ("url", "port"), [("https://x", 443), ("x", 443), ("http://x", 80), ("http://x:443", 443), ("https://x:80", 80)]
)
def test_what_begins_with_http_is_at_port_80(url: str, port: int) -> None:
    assert Address.parse(url).port == port


@pytest.mark.parametrize(
    ("text", "host", "replica"),
    [
        ("o.example", "o.example", None),
        ("O.Example", "o.example", None),
        ("ID-1A.o.example", "o.example", "id-1a"),
        ("loc-eu-west.o", "o", "loc-eu-west"),
    ],
)
def test_a_host_and_what_stands_before_it(text: str, host: str, replica: str | None) -> None:
    assert parse_host(text) == (host, replica)


@pytest.mark.parametrize(
    "text", ["", ".", "o.", "a b", "a_b", "*", "o.>", "id-1.", "id-1.*", "\ud800", "ü.example", None]
)
def test_what_is_no_host_is_named(text: Any) -> None:
    with pytest.raises(BadRequest, match="is no host; expected one such as counter.example") as refused:
        parse_host(text)
    assert repr(text) in str(refused.value)
    assert refused.value.taken == "no"


@pytest.mark.parametrize("host", ["Upper.case", "a_b", "id-x.y", "loc-x", "all", "x.all", "a..b", "", "a" * 253])
def test_a_bad_host_is_refused(host: str) -> None:
    with pytest.raises(DeclarationError, match="expected lower-case"):
        check_host(host, "Orders")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("verify_credit", "verify-credit"),
        ("VerifyCredit", "verify-credit"),
        ("HTTPServer", "http-server"),
        ("add", "add"),
    ],
)
def test_names_become_kebab_case(name: str, path: str) -> None:
    assert kebab(name) == path


@pytest.mark.parametrize(
    "subject", ["", "a.b", "p.safe.x.a.b._.post.y", "p.safe.443.a.b._.post.%ff", "p.safe.443.%ff.b._.post.y"]
)
def test_a_subject_that_is_no_requests_is_refused(subject: str) -> None:
    with pytest.raises(BadRequest, match="is no request's"):
        parse_request(subject)


@pytest.mark.parametrize(
    "subject",
    [
        "p.safe.666.a.b._.post.x",
        "p.danger.443.a.b._.post.x",
        "p.reply.443.a.b._.post.x",
        "p.safe.0443.a.b._.post.x",
        "p.safe.4_43.a.b._.post.x",
        "p.safe.+443.a.b._.post.x",
        "p.safe. 443.a.b._.post.x",
        "p.safe.\u0664\u0664\u0663.a.b._.post.x",
        "p.safe.443.a.b._.POST.x",
        "p.safe.443.a.b._.%70ost.x",
        "p.safe.443.a.b._.any.x",
        "p.safe.443.a.b._.*.x",
        "p.safe.443.a.b._.post.%78",
        "p.safe.443.a.b._.post.%7E",
        "p.safe.443.a.b._.post.a/b",
        "p.safe.443.a.b._.post.a_b",
        "p.safe.443.%61.b._.post.x",
        "p.safe.443.a.%62._.post.x",
        "p.safe.443.a.b.%69d-1.post.x",
    ],
)
def test_another_spelling_of_a_subject_is_none(subject: str) -> None:
    """A broker that denies the one a host listens to knows nothing of the other."""
    with pytest.raises(BadRequest, match="is no request's: expected '"):
        parse_request(subject)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/", []),
        ("/a/{x}/b/{y...}", ["x", "y"]),
        ("/{}/{}", ["", ""]),
        ("/{...}", [""]),
        ("/a b/c*/ü", []),
    ],
)
def test_the_names_in_a_path(path: str, names: list[str]) -> None:
    assert path_names(path) == names


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/a?b", "'\\?' in it, which no path of a URL has"),
        ("/a#b", "'#' in it"),
        ("/a\nb", "in it"),
        ("/\ud800", "in it"),
        ("/{x...}/y", "'{x...}' is all that follows; expected at the end"),
        ("/{...}/y", "expected at the end"),
        ("/{x+}", "'{x\\+}' is no argument; a whole segment {name} expected, or {name...} at the end"),
        ("/a{x}", "'a{x}' is no argument"),
        ("/{x", "'{x' is no argument"),
        ("/x}", "'x}' is no argument"),
        ("/{x}/{x}", "'x' is there twice"),
        ("/{x}/{x...}", "'x' is there twice"),
    ],
)
def test_a_path_whose_arguments_are_none_is_refused(path: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        path_names(path)


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("/a", "/a", {}),
        ("/a", "/b", None),
        ("/a/{id}", "/a/7", {"id": "7"}),
        ("/a/{id}", "/a/{id}", {}),
        ("/a/{id}", "/a", None),
        ("/a/{id}", "/a/7/8", None),
        ("/{}/{}", "/x/y%2Fz", {"path1": "x", "path2": "y/z"}),
        ("/a/{rest...}", "/a/b/c/d", {"rest": "b/c/d"}),
        ("/a/{rest...}", "/a/b", {"rest": "b"}),
        ("/a/{rest...}", "/a", None),
        ("/a/{rest...}", "/a/{rest...}", {}),
    ],
)
def test_the_arguments_of_a_path(pattern: str, path: str, found: dict[str, str] | None) -> None:
    assert path_arguments(pattern, path) == found
