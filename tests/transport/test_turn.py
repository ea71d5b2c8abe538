"""The end of a turn: in order, all of it before the last, and once."""

from __future__ import annotations

import asyncio
from typing import Any

from mbactor.transport.turn import EndOfTurn
from tests.loops import run


def test_what_is_to_be_done_comes_in_order_before_the_last_and_in_the_same_turn() -> None:
    async def work() -> None:
        done: list[str] = []
        end = EndOfTurn(lambda: done.append("last"))

        def first() -> None:
            done.append("first")
            end.want()  # as a message that leaves does

        end.want()
        end.do(first)
        end.do(lambda: done.append("second"))
        assert done == []
        await asyncio.sleep(0)
        assert done == ["first", "second", "last"]
        await asyncio.sleep(0)
        assert done == ["first", "second", "last"]
        end.want()
        await asyncio.sleep(0)
        assert done[3:] == ["last"]

    run(work())


def test_what_raises_keeps_nothing_else_from_being_done_and_what_is_added_waits_for_the_next_turn() -> None:
    async def work() -> None:
        raised: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        done: list[str] = []
        end = EndOfTurn(lambda: done.append("last"))

        def fails() -> None:
            end.do(lambda: done.append("added"))
            raise ValueError("no")

        end.do(fails)
        end.do(lambda: done.append("other"))
        await asyncio.sleep(0)
        assert done == ["last"]
        await asyncio.sleep(0)
        assert done == ["last", "other", "added", "last"]
        assert [type(context["exception"]) for context in raised] == [ValueError]

    run(work())


def test_a_turn_is_quiet_until_something_is_wanted_where_the_last_had_no_more_than_one() -> None:
    async def work() -> None:
        end = EndOfTurn(lambda: None)
        seen = [end.quiet]
        for wanted in (1, 2, 1, 0):
            for _ in range(wanted):
                end.want()
                assert not end.quiet
            end.do(lambda: None)
            assert not end.quiet
            await asyncio.sleep(0)
            seen.append(end.quiet)
        assert seen == [False, True, False, True, True]

    run(work())


def test_what_leaves_at_once_is_of_the_turn_in_which_something_was_read_last() -> None:
    async def work() -> None:
        ended: list[None] = []
        end = EndOfTurn(lambda: ended.append(None))
        seen = []
        for left in (1, 2, 0, 1):
            for _ in range(left):
                end.left()
                assert not end.quiet
            end.begin()
            seen.append(end.quiet)
        assert seen == [True, False, False, True], "a turn in which nothing leaves says nothing of the next one"
        await asyncio.sleep(0)
        assert not ended

    run(work())


def test_what_is_read_before_the_end_of_a_turn_is_read_in_that_turn() -> None:
    async def work() -> None:
        end = EndOfTurn(lambda: None)
        end.want()
        end.begin()
        assert not end.quiet
        end.left()
        await asyncio.sleep(0)
        end.begin()
        assert not end.quiet
        end.want()
        await asyncio.sleep(0)
        end.begin()
        assert end.quiet

    run(work())
