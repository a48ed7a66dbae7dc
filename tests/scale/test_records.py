"""What lies in Redis of a call: sealed, without secrets, bounded, and never believed."""

import asyncio
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet
from logged import logged
from pipecat.processors.aggregators.llm_context import LLMContext
from recorded import service
from scale_redis import RedisServer, redis
from waiting import until

from mistral_service import MistralLLMService
from mistral_service.reply.calls import PlannedCall
from mistral_service.scale import bounds, writer
from mistral_service.scale.client_report import ClientReport
from mistral_service.scale.incremental_json import PIECE, iterencode, loads
from mistral_service.scale.record import read_record
from mistral_service.scale.recordable_settings import recorded_settings
from mistral_service.scale.recorder import CallRecorder
from mistral_service.scale.recorders import CallRecorders, UnknownCall
from mistral_service.scale.sealing import Codec, Unreadable
from mistral_service.scale.snapshot import (
    Journal,
    Snapshot,
    Started,
    TooNew,
    calls_to_json,
    snapshot_from_json,
    snapshot_to_json,
)
from mistral_service.scale.store import MAX_FIELD_BYTES, Store

__all__ = ["redis"]

USER = {"role": "user", "content": "My card is 4111 1111."}
SECRET = "sk-very-secret-0123456789"
CALL = "CA0123456789abcdef0123456789abcdef"
LONG = "x" * 5_000_000
ENTRY = {
    "id": "call00001",
    "name": "f",
    "arguments": "{}",
    "result": None,
    "in_context": False,
    "this_turn": True,
}


@pytest.fixture
async def store(redis: RedisServer) -> AsyncIterator[Store]:
    store = Store(redis.url, timeout=5)
    yield store
    await store.close()


async def begun(recorders: CallRecorders, *messages: Any, **settings: Any) -> CallRecorder:
    """A call in its first turn, which is written."""
    recorder = await recorders.open(CALL, create=True)
    recorder._has_taps = True  # there is no pipeline to listen to
    await recorder.on_turn_start(
        service(**settings), LLMContext([dict(m) for m in messages or (USER,)])
    )
    await until(lambda: recorder._writer.idle)
    return recorder


async def lies(store: Store, call_id: str = CALL) -> dict[bytes, bytes]:
    """What lies in Redis of a call."""
    return await store._redis.hgetall("call:" + call_id)


# Sealed.


async def test_by_default_nothing_that_is_said_can_be_read_in_redis(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MISTRAL_API_KEY", SECRET)
    one, two = CallRecorders(store), CallRecorders(store)  # two machines, without any configuration
    recorder = await begun(one)
    for field in (await lies(store)).values():
        with pytest.raises(zlib.error):
            zlib.decompress(field)
        assert b"4111" not in field
    await recorder.close(over=False)
    assert (await two.open(CALL))._snapshot.messages == [USER]


async def test_the_key_of_another_account_opens_nothing(store: Store):
    recorder = await begun(
        CallRecorders(store, codec=Codec.from_environment({"MISTRAL_API_KEY": SECRET}))
    )
    other = CallRecorders(store, codec=Codec.from_environment({"MISTRAL_API_KEY": SECRET + "x"}))
    with pytest.raises(Unreadable) as told:
        await other.open(CALL)
    assert SECRET not in str(told.value)
    await recorder.close(over=True)


def test_without_a_key_calls_are_kept_in_the_clear_only_where_that_is_said():
    with pytest.raises(ValueError, match="MISTRAL_SERVICE_KEEP_KEY=none records calls unsealed"):
        Codec.from_environment({})
    for none in ("none", " None\n"):
        assert zlib.decompress(
            Codec.from_environment(
                {"MISTRAL_SERVICE_KEEP_KEY": none, "MISTRAL_API_KEY": SECRET}
            ).pack('"words"')
        )


def test_keys_can_change_also_from_the_one_that_is_made():
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    environments = [
        {"MISTRAL_API_KEY": SECRET},
        {"MISTRAL_API_KEY": SECRET, "MISTRAL_SERVICE_KEEP_KEY": old},
        {"MISTRAL_API_KEY": "another key", "MISTRAL_SERVICE_KEEP_KEY": f"{new},{old}"},
    ]
    before = None
    for codec in map(Codec.from_environment, environments):
        if before is not None:
            assert codec.unpack(before) == "words"
        before = codec.pack('"words"')
    with pytest.raises(Unreadable):
        Codec.from_environment(environments[0]).unpack(Codec([new]).pack("1"))


def test_a_key_that_is_made_tells_nothing_of_the_api_key():
    codec = Codec.from_environment({"MISTRAL_API_KEY": SECRET})
    assert SECRET.encode() not in codec.pack('"words"')
    assert SECRET not in repr(vars(codec))


# Secrets.


@pytest.mark.parametrize(
    "settings",
    [
        {"extra": {"extra_headers": {"Authorization": f"Bearer {SECRET}"}}},
        {"extra": {"extra_headers": {"X-Tenant": SECRET}}},
        {"extra": {"extra_query": {"sig": SECRET}}},
        {"extra": {"extra_body": {"safe": [{"deep": {"db_password": SECRET}}]}}},
        {"extra": {"x_portkey_virtual": SECRET}},
        {"extra": {"metadata": {"a": [{"b": {"refreshToken": SECRET}}]}}},
        {"metadata": {"team": {"Set-Cookie": SECRET}}},
        {"metadata": {"note": f"Bearer {SECRET}"}},
        {"metadata": {"note": ["Basic " + SECRET]}},
        {"metadata": {"callback": f"https://user:{SECRET}@example.com/"}},
        {"metadata": {"callback": f"https://example.com/?a=1&api_key={SECRET}"}},
        {"metadata": {SECRET: 1}},
        {"guardrails": [{"headers": {"x": SECRET}}]},
        {"prediction": {"type": "content", "content": f"the key is {SECRET}"}},
        {"system_instruction": f"Call the backend with {SECRET}."},
        {"response_format": {"type": "text", "credentials": {"user": SECRET}}},
    ],
    ids=str,
)
async def test_what_may_hold_a_secret_is_not_kept(
    settings: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CRM_API_KEY", SECRET)
    recorder = await begun(CallRecorders(store, codec=Codec()), temperature=0.2, **settings)
    snapshot = zlib.decompress((await lies(store))[b"snapshot"])
    assert SECRET.encode() not in snapshot
    assert json.loads(snapshot)["settings"]["temperature"] == 0.2
    await recorder.close(over=True)


def test_settings_without_a_secret_are_kept():
    given = {
        "system_instruction": "Never tell your password. Basic questions first, Bearer later.",
        "max_tokens": 20,
        "tool_choice": {"type": "function", "function": {"name": "tokenise"}},
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"properties": {"max_tokens": {}}}},
        },
        "metadata": {"team": "support", "link": "https://example.com/a?b=c"},
        "prompt_cache_key": "conversation-7",
    }
    kept = recorded_settings(MistralLLMService.Settings(**given, extra={"safe_prompt": True}))
    assert {name: kept[name] for name in given} == given
    assert kept["extra"] == {"safe_prompt": True}


# Bounded.


BOMBS = {
    "a text": lambda: zipped(b'"', b"a" * 1_000_000, 300, b'"'),
    "lists": lambda: zipped(b"[", b"[]," * 300_000, 300, b"1]"),
    "nesting": lambda: zipped(b"", b"[" * 1_000_000, 5, b""),
    "keys": lambda: zipped(b"{", b'"a":{},' * 100_000, 300, b'"b":1}'),
    "a number": lambda: zipped(b"", b"1" * 1_000_000, 5, b""),
    "packed twice": lambda: zlib.compress(zipped(b'"', b"a" * 1_000_000, 300, b'"')),
    "another packing": lambda: gzip.compress(b"1"),
    "cut off": lambda: zlib.compress(b'"' + b"a" * 1000 + b'"')[:-3],
    "more behind": lambda: zlib.compress(b"1") + b"1",
    "nothing": lambda: b"",
}


def zipped(first: bytes, piece: bytes, times: int, last: bytes) -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(first), *(packer.compress(piece) for _ in range(times))]
    return b"".join([*parts, packer.compress(last), packer.flush()])


def test_what_unpacks_to_gigabytes_is_refused_within_a_bound(tmp_path: Path):
    """In a process that may have 1 GB more than it has, so that a bomb takes nothing down."""
    for name, bomb in BOMBS.items():
        (tmp_path / name).write_bytes(bomb())
    code = (
        "import resource, sys\n"
        "from mistral_service.scale.sealing import Codec, Unreadable\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 10**9,) * 2)\n"
        "for path in sys.argv[1:]:\n"
        "    try: Codec().unpack(open(path, 'rb').read())\n"
        "    except Unreadable: print('unreadable', flush=True)\n"
    )
    paths = [str(tmp_path / name) for name in BOMBS]
    done = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=240
    )
    assert done.stdout.split() == ["unreadable"] * len(BOMBS), done.stderr[-500:]


async def test_a_field_that_is_larger_than_any_that_is_kept_is_not_sent(store: Store):
    await (await begun(CallRecorders(store, codec=Codec()))).close(over=False)
    await store._redis.hset("call:" + CALL, "snapshot", b"x" * (MAX_FIELD_BYTES + 1))
    held = await store.read(CALL)
    assert held is not None
    assert held.fields["snapshot"] == b""
    with pytest.raises(Unreadable):
        await CallRecorders(store, codec=Codec()).open(CALL)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": LONG}],
        [{"role": "system", "content": LONG}, USER],
        [{"role": "system", "content": "é" * 900_000}] * 5,
        [USER, {"role": "tool", "tool_call_id": "a", "content": LONG}],
        [{"role": "assistant", "tool_calls": [{"id": "a", "function": {"arguments": LONG}}]}],
        [{"role": "user", "content": [{"type": "text", "text": LONG}]}],
    ],
    ids=["user", "system", "systems", "result", "arguments", "parts"],
)  # fmt: skip
def test_a_conversation_is_never_kept_larger_than_it_may_be(messages: list[Any]):
    text = snapshot_to_json(Snapshot(1, messages))
    assert len(text) < bounds.MAX_MESSAGES_BYTES + 1000
    back = snapshot_from_json(loads(text)).messages
    assert [m["role"] for m in back] == [m["role"] for m in messages][-len(back) :]


def test_functions_are_kept_however_large_what_they_were_given_is():
    started = {
        f"call{n:05}": Started("read", {"text": "é" * 100_000}, 1, "x" * 150_000)
        for n in range(100)
    }
    text = calls_to_json(started)
    assert len(text) < bounds.MAX_CALLS_BYTES + 100 * 300
    back = loads(text)
    assert list(back) == list(started)  # that they ran is known of all
    assert back["call00099"]["result"] == "x" * 150_000
    assert back["call00000"]["result"] == bounds.TEXT_OMITTED


def test_of_a_ledger_with_large_arguments_no_more_is_kept_than_fits():
    ledger = [{**ENTRY, "id": f"call{n:05}", "arguments": "x" * 50_000} for n in range(1000)]
    text = snapshot_to_json(Snapshot(1, [USER], ledger=ledger))
    assert len(text) < bounds.MAX_CALLS_BYTES + 1000 * 300
    assert [e["id"] for e in json.loads(text)["ledger"]] == [e["id"] for e in ledger]


async def test_a_conversation_that_is_too_large_is_warned_of_once(store: Store):
    recorders = CallRecorders(store, codec=Codec(), limit=10_000)
    with logged() as warnings:
        recorder = await begun(recorders, {"role": "user", "content": "x" * 20_000})
        for _ in range(3):
            await recorder.on_turn_start(
                service(), LLMContext([{"role": "user", "content": "x" * 20_000}])
            )
            await until(lambda: recorder._writer.idle)
        await recorder.close(over=True)
    assert len([w for w in warnings if "larger than is recorded" in w]) == 1


async def test_what_json_cannot_hold_keeps_no_call_from_being_kept(store: Store):
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = "x"
    for _ in range(3000):
        deep = [deep]
    odd = [loop, deep, {("a", "b"): 1}, 10**5000, {1: "x", "y": float("nan")}, b"\xff" * 100_000]
    messages = [{"role": "user", "content": [{"type": "odd", "odd": each}]} for each in odd]
    recorders = CallRecorders(store, codec=Codec())
    recorder = await begun(recorders, *messages, USER)
    await recorder.on_function_calls(
        [PlannedCall(f"call{n:05}", "f", {"odd": each}) for n, each in enumerate(odd)]
    )
    for n, each in enumerate(odd[4:]):
        await recorder.on_function_result(f"call{n:05}", each)
    await recorder.close(over=False)
    taken = await recorders.open(CALL)
    assert taken._snapshot.messages[-1] == USER
    assert len(taken._snapshot.messages) == len(messages) + 1
    assert len(taken._functions.started) == len(odd)
    await taken.close(over=True)


def test_a_large_text_is_written_in_small_pieces():
    values = [{"a": n, "b": ["x", None, 1.5]} for n in range(20_000)]
    value = {"values": values, "text": "é" * 500_000, "words": ["word"] * 100_000}
    written = list(iterencode(value))
    assert max(map(len, written)) < 10 * PIECE
    assert "".join(written) == json.dumps(value)
    assert loads("".join(written)) == value


# Not believed.


SOUND = {
    "version": 1,
    "turn": 1,
    "opened_with": [],
    "settings": {"temperature": 0.2},
    "ledger": [ENTRY],
    "messages": [USER],
}
HUGE = 10**400
DAMAGED: dict[str, Any] = {
    "no object": {"snapshot": [SOUND]},
    "a text": {"snapshot": "x"},
    "nothing": {"snapshot": None},
    **{
        f"{name} {str(value)[:12]}": {"snapshot": {**SOUND, name: value}}
        for name, values in {
            "version": (True, "1", None, -1, 0, 1.0, HUGE, [], float("nan")),
            "turn": (True, "1", None, -1, 1.5, HUGE, [], float("nan"), float("inf")),
            "messages": ("x", None, {}, 5, ["x"], [5], [None], [[USER]],
                         [{"role": 5}], [{"role": "user", "content": 5}],
                         [{"role": "assistant", "tool_calls": "x"}],
                         [{"role": "assistant", "tool_calls": ["x"]}],
                         [{"role": "assistant", "tool_calls": [{"function": "x"}]}],
                         [{"llm": 5, "message": {}}]),
            "opened_with": ("x", None, {}, [5], [None]),
            "settings": ("x", None, [], 5),
            "ledger": ("x", None, {}, [5], ["x"], [{}], [{**ENTRY, "id": 5}],
                       [{**ENTRY, "arguments": {}}], [{**ENTRY, "result": 5}],
                       [{**ENTRY, "this_turn": "x"}], [{"id": "a"}]),
        }.items()
        for value in values
    },
    **{f"without {name}": {"snapshot": {k: v for k, v in SOUND.items() if k != name}}
       for name in SOUND},
    **{
        f"journal {str(value)[:30]}": {"snapshot": SOUND, "journal": value}
        for value in ("x", None, [], 5, {"turn": "1"}, {"turn": True}, {"turn": -1}, {"turn": HUGE},
                      {"words": 5}, {"words": None}, {"complete": "yes"}, {"asked": []})
    },
    **{
        f"calls {str(value)[:40]}": {"snapshot": SOUND, "calls": value}
        for value in ("x", None, [], 5, {"a": 5}, {"a": None}, {"a": {}},
                      {"a": {"name": 5, "arguments": {}, "turn": 1}},
                      {"a": {"name": "f", "arguments": "x", "turn": 1}},
                      {"a": {"name": "f", "arguments": {}, "turn": -1}},
                      {"a": {"name": "f", "arguments": {}, "turn": HUGE}},
                      {"a": {"name": "f", "arguments": {}, "turn": 1, "result": 5}})
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_record_of_another_form_is_unreadable(name: str):
    fields = {field: Codec().pack(json.dumps(value)) for field, value in DAMAGED[name].items()}
    with pytest.raises(Unreadable) as told:
        await read_record(Codec(), fields, bounds.MAX_MESSAGES_BYTES)
    assert len(str(told.value)) < 200
    assert "4111" not in str(told.value)


async def test_a_setting_that_is_not_valid_here_is_left_out_and_the_call_goes_on():
    settings = {"temperature": "hot", "top_p": 0.5, "mood": "good", "extra": "x", "n": HUGE}
    fields = {"snapshot": Codec().pack(json.dumps({**SOUND, "settings": settings}))}
    assert (await read_record(Codec(), fields, bounds.MAX_MESSAGES_BYTES)).snapshot.settings == {
        "top_p": 0.5
    }


async def test_a_sound_record_is_read():
    fields = {"snapshot": Codec().pack(json.dumps(SOUND)), "journal": Codec().pack('{"turn": 1}')}
    record = await read_record(Codec(), fields, bounds.MAX_MESSAGES_BYTES)
    assert (record.snapshot.turn, record.journal) == (1, Journal(1))


# A take that fails.


UNREADABLE: dict[str, dict[str, bytes]] = {
    "newer": {"snapshot": Codec().pack(json.dumps({**SOUND, "version": 2}))},
    "damaged": {"snapshot": b"x"},
    "another key": {"snapshot": Codec([Fernet.generate_key().decode()]).pack(json.dumps(SOUND))},
    "another form": {"snapshot": Codec().pack(json.dumps({**SOUND, "turn": -1}))},
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_take_that_fails_changes_nothing_and_renews_nothing(name: str, store: Store):
    taken = await store.claim(CALL, 30.0, create=True)
    assert taken is not None
    await store.write(CALL, taken.fence, UNREADABLE[name], 30.0)
    await store._redis.pexpire("call:" + CALL, 5000)
    before = await lies(store)
    for _ in range(20):
        with pytest.raises(TooNew if name == "newer" else Unreadable):
            await CallRecorders(store, codec=Codec(), keep_seconds=3600).open(
                CALL, ClientReport(heard="x")
            )
    assert await lies(store) == before
    assert await store._redis.pttl("call:" + CALL) <= 5000
    assert await store.write(CALL, taken.fence, {}, 30.0)  # its owner, who can read it, goes on


@pytest.mark.parametrize("name", UNREADABLE)
async def test_at_a_carriers_door_such_a_call_begins_anew(name: str, store: Store):
    owner = await store.claim(CALL, 30.0, create=True)
    assert owner is not None
    await store.write(CALL, owner.fence, UNREADABLE[name], 30.0)
    recorders = CallRecorders(store, codec=Codec())
    recorder = await recorders.open(CALL, create=True)
    assert (recorder.resumed, recorder.history_lost, recorder.is_pending) == (False, True, False)
    assert set(await lies(store)) == {b"fence"}
    assert not await store.write(CALL, owner.fence, {}, 30.0)  # fenced: the line is here now
    await recorder.close(over=False)
    again = await recorders.open(CALL, create=True)  # and it does not begin anew for ever
    assert (again.resumed, again.history_lost) == (True, False)
    await again.close(over=True)


async def test_looking_for_calls_that_are_not_there_writes_nothing(store: Store):
    for n in range(20):
        with pytest.raises(UnknownCall):
            await CallRecorders(store, codec=Codec()).open(f"nosuchcall{n:04}")
    assert await store._redis.dbsize() == 0


async def test_of_two_that_take_a_call_at_once_one_has_it(store: Store):
    recorders = CallRecorders(store, codec=Codec())
    await (await begun(recorders)).close(over=False)
    takers = await asyncio.gather(*(recorders.open(CALL) for _ in range(3)))
    fences = [taker._writer._fence for taker in takers]
    assert len(set(fences)) == 3
    kept = [await store.write(CALL, fence, {}, 30.0) for fence in fences]
    assert [bool(written) for written in kept] == [fence == max(fences) for fence in fences]
    for taker in takers:
        assert taker._snapshot.messages == [USER]
        await taker.close(over=False)


@pytest.mark.parametrize("rounds", range(12))
async def test_a_record_ends_at_whatever_moment_it_is_closed(
    store: Store, monkeypatch: pytest.MonkeyPatch, rounds: int
):
    """Python 3.11's `asyncio.wait_for`, which sends a command, may swallow a cancellation."""
    monkeypatch.setattr(asyncio, "wait_for", asyncio.tasks.wait_for)  # Pipecat replaces it
    monkeypatch.setattr(writer, "HEARTBEATS", 10**12)  # one after the other
    recorder = await CallRecorders(store, codec=Codec()).open()
    for _ in range(rounds):
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await recorder.close(over=True)


async def test_words_that_are_written_while_a_call_is_taken_are_not_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    recorders = CallRecorders(store, codec=Codec())
    owner = await begun(recorders)
    read = store.read

    async def read_then_write(call_id: str) -> Any:
        held = await read(call_id)
        owner.on_text("It is noon.")
        await owner._writer._write()
        return held

    monkeypatch.setattr(store, "read", read_then_write)
    taker = await recorders.open(CALL)
    assert taker._journal.words == "It is noon."
    for recorder in (owner, taker):
        await recorder.close(over=False)
