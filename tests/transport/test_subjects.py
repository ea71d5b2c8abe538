"""Addresses and subjects: every address survives the way through a subject and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbactor.errors import AddressTooLong, BadRequest, DeclarationError
from mbactor.transport.address import Address, check_host, kebab
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


@given(hosts)
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
        reply.rpartition(".")[0],
        "",
    ]
    assert [one for one in others if own_inbox(subject, one)] == [reply + " 1"]  # which `publish` refuses


def test_who_answers_for_an_event_of_another_host_does_so_in_its_own_name() -> None:
    reply = reply_subject("p", "shop.example", "orders.example", "id-1", "17")
    assert answered_by("books.example", reply) == "p.reply._.books_example.orders_example.id-1.17"


def test_an_address_too_long_for_a_subject_is_refused_with_414() -> None:
    with pytest.raises(AddressTooLong, match="limit is 1024") as refused:
        request_subject("p", "ada.example", Address("o", "/" + "x" * 1100))
    assert refused.value.status == 414
    assert refused.value.taken == "no"


@given(addresses)
def test_a_url_is_read_as_it_was_written(address: Address) -> None:
    if not set("?#[]\t\r\n;") & set(address.path) and address.path.isascii() and address.path.isprintable():
        assert Address.parse(str(address), address.method) == address


@pytest.mark.parametrize("url", ["https://", "https://a b/x", "https://x:99999/", "https://UP_per/x", "//:1/"])
def test_a_bad_url_is_refused_by_name(url: str) -> None:
    with pytest.raises(BadRequest, match="valid"):
        Address.parse(url)


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
