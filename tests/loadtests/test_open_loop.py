"""The open-loop generator: its timetable, its late sends, its percentiles, against a real HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from fake_gateway import gateway, recommend_answer, write_dataset

from loadtests import open_loop
from loadtests.open_loop import Dialect, Plan, Records, drive, percentiles
from loadtests.traffic import Traffic

GOOD = json.dumps(recommend_answer()).encode()
Answer = Callable[[int], Awaitable[bytes]]


@pytest.fixture
def traffic(tmp_path: Path) -> Traffic:
    return Traffic.read(write_dataset(tmp_path), seed=0)


def _drive(plan: Plan, traffic: Traffic, answer: Answer) -> tuple[Records, list[int]]:
    """Run a plan against a server whose n-th request is answered by `answer(n)`; also requests by connection."""
    by_connection: list[int] = []

    async def run() -> Records:
        total = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal total
            mine = len(by_connection)
            by_connection.append(0)
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    writer.close()
                    return
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                assert "user_id" in json.loads(await reader.readexactly(length))
                by_connection[mine] += 1
                total += 1
                writer.write(await answer(total - 1))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return await drive(plan, f"http://127.0.0.1:{port}", traffic)

    return asyncio.run(run()), by_connection


def _http(content: bytes, status: int = 200, extra: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n{extra}\r\n".encode() + content


async def _good(number: int) -> bytes:
    return _http(GOOD)


def test_every_request_of_the_timetable_leaves_and_the_warm_up_is_not_recorded(traffic: Traffic) -> None:
    records, by_connection = _drive(Plan(rate=500, seconds=0.2, warmup=0.1), traffic, _good)
    assert len(records.latency) == len(records.service) == len(records.late) == 100
    assert sum(by_connection) == 150
    assert records.rungs == {"full service": 100} and not records.failures
    assert all(0 <= service <= latency for service, latency in zip(records.service, records.latency, strict=True))
    assert min(records.late) >= 0
    assert records.elapsed >= 0.2 - 1 / 500


def test_a_stall_is_charged_to_everyone_who_waited_and_their_sends_are_late(traffic: Traffic) -> None:
    async def stall_first(number: int) -> bytes:
        if number == 0:
            await asyncio.sleep(0.1)
        return _http(GOOD)

    records, by_connection = _drive(Plan(rate=1000, seconds=0.02, warmup=0, connections=1), traffic, stall_first)
    report = records.report(1000)
    assert by_connection == [20]
    # The only connection was taken for 100 ms, and the last of the others was due after 19 ms.
    assert report["late_sends"] >= 19 and report["late_ms_max"] >= 80
    assert report["latency_ms"]["p50"] >= 80
    assert sorted(records.latency)[0] >= 0.08
    assert report["answered_per_second"] < 250


def test_connections_are_kept_and_reused_unless_the_server_closes_them(traffic: Traffic) -> None:
    _, kept = _drive(Plan(rate=200, seconds=0.1, warmup=0, connections=1), traffic, _good)
    assert kept == [20]

    async def closing(number: int) -> bytes:
        return _http(GOOD, extra="Connection: close\r\n")

    records, closed = _drive(Plan(rate=200, seconds=0.1, warmup=0, connections=1), traffic, closing)
    assert closed == [1] * 20 and not records.failures


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [(GOOD, 503, "status 503"), (b"not json", 200, "DecodeError"), (b"[]", 200, "AttributeError"), (b"{}", 200, "no bundle_id")],
)
def test_a_wrong_answer_is_a_failure_and_no_latency(traffic: Traffic, content: bytes, status: int, reason: str) -> None:
    async def every_other(number: int) -> bytes:
        return _http(content, status) if number % 2 else _http(GOOD)

    records, _ = _drive(Plan(rate=1000, seconds=0.02, warmup=0, connections=1), traffic, every_other)
    assert records.failures == {reason: 10}
    assert len(records.latency) == 10 and len(records.late) == 20


def test_silence_is_a_failure_after_the_time_out(traffic: Traffic) -> None:
    async def never(number: int) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    records, _ = _drive(Plan(rate=100, seconds=0.03, warmup=0, timeout=0.05), traffic, never)
    assert records.failures == {"TimeoutError": 3}


def test_degraded_answers_are_counted_by_rung(traffic: Traffic) -> None:
    async def degraded(number: int) -> bytes:
        return _http(json.dumps(recommend_answer() | {"degraded": ["stranger", "popular"]}).encode())

    records, _ = _drive(Plan(rate=500, seconds=0.01, warmup=0), traffic, degraded)
    assert records.rungs == {"stranger": 5, "popular": 5}


def test_percentiles_are_exact_and_in_milliseconds() -> None:
    shuffled = np.random.default_rng(0).permutation(np.arange(1, 10_001)) / 1e6  # 0.001 .. 10.000 ms
    found = percentiles(shuffled.tolist())
    expected = {"p50": 5.0, "p90": 9.0, "p95": 9.5, "p99": 9.9, "p99.9": 9.99, "p99.99": 9.999, "max": 10.0}
    assert found == pytest.approx(expected, abs=1e-9)
    assert percentiles([0.002])["p99.9"] == pytest.approx(2.0)
    assert percentiles([]) == {}


def test_late_sends_are_those_beyond_the_limit() -> None:
    limit = open_loop.LATE_MS / 1e3
    report = Records(late=[0.0, limit * 0.9, limit * 1.1, limit * 5]).report(1)
    assert (report["late_sends"], report["late_ms_max"]) == (2, pytest.approx(5 * open_loop.LATE_MS))


def test_the_command_writes_a_report_and_its_exit_code_follows_the_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, out = write_dataset(tmp_path / "data"), tmp_path / "report.json"
    common = ["--rate", "100", "--seconds", "0.2", "--warmup", "0", "--dataset", str(dataset), "--json", str(out)]
    with gateway() as right:
        assert open_loop.main([*common, "--url", right.url]) == 0
    assert right.asked == {"/v1/recommend": 20}
    report = json.loads(out.read_text())
    assert (report["sent"], report["answered"], report["failures"]) == (20, 20, {})
    assert set(report["latency_ms"]) == {"p50", "p90", "p95", "p99", "p99.9", "p99.99", "max"}
    assert "20 sent, 20 right answers, 0 failures" in capsys.readouterr().out
    with gateway("empty") as empty:
        assert open_loop.main([*common, "--url", empty.url]) == 1
    assert json.loads(out.read_text())["failures"] == {"no ads": 20}


def test_another_servers_dialect_wraps_the_body_and_unwraps_the_answer(traffic: Traffic) -> None:
    sent: list[bytes] = []

    async def infer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            sent.append(head.split(b" ")[1] + b" " + await reader.readexactly(length))
            writer.write(_http(b"<" + GOOD + b">"))

    async def run() -> Records:
        server = await asyncio.start_server(infer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        dialect = Dialect("/infer", lambda body: b"<" + body + b">", lambda content: json.loads(content[1:-1]))
        return await drive(Plan(rate=100, seconds=0.03, warmup=0, connections=1), url, traffic, dialect)

    records = asyncio.run(run())
    assert len(records.latency) == 3 and not records.failures
    assert all(one.startswith(b"/infer <{") and one.endswith(b"}>") for one in sent) and len(sent) == 3


def test_bad_usage_is_exit_code_2(tmp_path: Path) -> None:
    for arguments in (["--rate", "0"], ["--rate", "10", "--dataset", str(tmp_path)]):
        with pytest.raises(SystemExit) as left:
            open_loop.main(arguments)
        assert left.value.code == 2
