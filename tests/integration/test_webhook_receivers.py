"""Receivers as they are, and where they claim to be: what is asked, what is taken for an answer."""

from __future__ import annotations

import asyncio
import re
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from atelier.addresses import Rules
from atelier.egress import Egress, lookup
from atelier.errors import FailedPreconditionError
from tests.support.outbox import LOOPBACK, SECRET, Bench
from tests.support.ports import free_port
from tests.support.receiver import Receiver, answering, dripping, endless, reset
from webhooks import post as post_module
from webhooks.message import body_of, headers_of
from webhooks.post import Poster

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"


@pytest.mark.parametrize(
    ("behave", "status"),
    [
        (answering(500), 500),
        (answering(301, headers=(("location", "/elsewhere"),)), 301),
        (reset, 0),
    ],
)
async def test_a_failure_is_tried_again_by_the_schedule(
    bench: Bench, behave: Any, status: int
) -> None:
    async with Receiver(behave) as receiver, bench.worker():
        await bench.hook(receiver.url)
        await bench.succeed()
        [row] = await bench.until(lambda rows: rows[0]["attempts"] == 1)
        assert (row["status"], row["finish_time"]) == (status, None)
        assert 4.9 <= (row["next_time"] - row["attempt_time"]).total_seconds() <= 5.6
        bench.change("UPDATE webhook_deliveries SET next_time = now()")
        first, second = await receiver.until(2)
        await bench.ended(1)
    assert first.id == second.id and first.body == second.body
    assert [r.path for r in receiver.received] == ["/hook", "/hook"]  # no redirect was followed


async def test_who_asks_for_patience_has_it_and_who_is_gone_is_left(bench: Bench) -> None:
    busy = answering(429, headers=(("retry-after", "3600"),))
    async with Receiver(busy) as patient, Receiver(answering(410)) as gone, bench.worker():
        asks, leaves = await bench.hook(patient.url), await bench.hook(gone.url)
        await bench.succeed()
        rows = await bench.until(lambda rows: all(r["attempts"] for r in rows))
        later = next(r for r in rows if str(r["webhook_id"]) == asks.id)
        assert later["next_time"].timestamp() - later["attempt_time"].timestamp() >= 3_599
        ended = next(r for r in rows if str(r["webhook_id"]) == leaves.id)
        assert ended["finish_time"] and not ended["delivered"]
        await bench.until(lambda _: bool(bench.rows("SELECT FROM webhooks WHERE NOT enabled")))
        [stored] = await bench.webhooks.read("local", leaves.id)
        assert not stored.enabled and "410" in stored.disabled_reason
        await bench.succeed()
        assert len(bench.rows()) == 3  # only who asked for patience is told of it
    with pytest.raises(FailedPreconditionError, match="enable it"):
        await bench.webhooks.redeliver("local", str(ended["id"]))


@pytest.mark.parametrize("behave", [endless, dripping])
async def test_an_answer_without_end_is_not_waited_for(
    bench: Bench, behave: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "READ_SECONDS", 0.3)
    async with Receiver(behave) as receiver, bench.worker():
        await bench.hook(receiver.url)
        await bench.succeed()
        [row] = await bench.ended(1)
    assert row["delivered"] and row["status"] == 200


async def test_what_is_compressed_is_not_unpacked(bench: Bench) -> None:
    bomb = answering(500, body=b"\x1f\x8b" * 5_000, headers=(("content-encoding", "gzip"),))
    async with Receiver(bomb) as receiver, bench.worker():
        await bench.hook(receiver.url)
        await bench.succeed()
        [row] = await bench.until(lambda rows: rows[0]["attempts"] == 1)
    assert (row["status"], row["detail"]) == (500, "")


async def test_in_a_rotation_both_secrets_sign(bench: Bench) -> None:
    other = "whsec_" + "bmV3bmV3" * 6
    async with Receiver() as receiver, bench.worker():
        hook = await bench.hook(receiver.url)
        await bench.webhooks.replace_secret("local", hook.id, other, 3_600)
        await bench.webhooks.replace_secret("local", hook.id, other, 3_600)  # sent again
        await bench.succeed()
        [got] = await receiver.until(1)
        for secret in (SECRET, other):
            Webhook(secret).verify(got.body, got.headers)
        await bench.webhooks.replace_secret("local", hook.id, "whsec_" + "dGhpcmQh" * 6, 0)
        await bench.succeed()
        _, got = await receiver.until(2)
    assert got.headers["webhook-signature"].count("v1,") == 1


async def test_a_name_that_has_another_address_by_then_is_not_asked(bench: Bench) -> None:
    """DNS rebinding: public when the webhook was made, and ours when it is used."""
    answers = [["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:7f00:1"]]
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return answers.pop(0)

    rules = Rules((), (), plain_http=True)
    async with Receiver() as receiver:
        url = f"http://hooks.example:{receiver.port}/hook"
        target, _ = await Egress(rules, rebinding).resolve(url)
        await bench.hook(target.url)
        async with bench.worker(rules, lookup=rebinding):
            for attempt in (1, 2, 3):
                if attempt == 1:
                    await bench.succeed()
                [row] = await bench.until(lambda rows, n=attempt: rows[0]["attempts"] == n)
                assert row["status"] == 0 and row["detail"].startswith("not asked: the URL must be")
                bench.change("UPDATE webhook_lanes SET failures = 0")
                if attempt < 3:
                    bench.change("UPDATE webhook_deliveries SET next_time = now()")
    assert receiver.received == [] and asked == ["hooks.example"] * 4


async def test_a_name_is_looked_up_once_and_told_to_the_server(bench: Bench) -> None:
    asked: list[str] = []

    async def here(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    async with Receiver() as receiver, bench.worker(lookup=here):
        await bench.hook(f"http://hooks.example:{receiver.port}/a?b=c")
        await bench.succeed()
        [got] = await receiver.until(1)
        await bench.ended(1)
    assert asked == ["hooks.example"]
    assert got.headers["host"] == f"hooks.example:{receiver.port}" and got.path == "/a?b=c"


async def test_no_name_is_an_answer_too(bench: Bench) -> None:
    async with bench.worker():
        await bench.hook("http://nowhere.invalid/")
        await bench.succeed()
        [row] = await bench.until(lambda rows: rows[0]["attempts"] == 1)
    assert row["detail"].startswith("not asked")
    assert await lookup("127.0.0.1", 80) == ["127.0.0.1"]


async def test_a_certificate_is_checked_by_the_name_that_was_asked_for(
    bench: Bench, tmp_path: Path
) -> None:
    """By the pinned address, with the name in the handshake."""
    key, certificate = self_signed(tmp_path, "hooks.example")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate, key)
    told: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: told.append(name)

    async def here(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    trusting = ssl.create_default_context(cafile=certificate)
    async with Receiver(tls=served) as receiver:
        answers = []
        for host, tls in (
            ("hooks.example", trusting),
            ("other.example", trusting),  # the certificate is another's
            ("hooks.example", None),  # whoever signed it is a stranger
        ):
            poster = Poster(Egress(LOOPBACK, here), tls)
            url = f"https://{host}:{receiver.port}/hook"
            answers.append(await poster.post(url, b"{}", {"webhook-id": "x"}))
            await poster.close()
    assert [answer.status for answer in answers] == [204, 0, 0]
    assert all("certificate" in answer.detail.lower() for answer in answers[1:])
    assert told == ["hooks.example", "other.example", "hooks.example"]
    assert len(receiver.received) == 1


async def test_cookies_are_not_kept_and_proxies_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with Receiver(answering(200, headers=(("set-cookie", "a=b; Path=/"),))) as receiver:
        poster = Poster(Egress(LOOPBACK))
        for _ in range(2):
            assert (await poster.post(receiver.url, b"{}", {})).delivered
        await poster.close()
    assert all("cookie" not in got.headers for got in receiver.received)


async def test_the_receiver_of_the_page_receives() -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    port = free_port()
    code = code.replace("whsec_...", SECRET).replace("8000", str(port))
    receiver = await asyncio.create_subprocess_exec(
        sys.executable, "-u", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    poster = Poster(Egress(LOOPBACK))
    try:
        body = body_of("webhook.test", datetime.now(UTC), {"id": "x"})
        headers = headers_of("some-id", datetime.now(UTC), body, [SECRET])
        for _ in range(100):
            answer = await poster.post(f"http://127.0.0.1:{port}/", body, headers)
            if answer.status:
                break
            await asyncio.sleep(0.1)
        forged = await poster.post(f"http://127.0.0.1:{port}/", body + b" ", headers)
        assert receiver.stdout
        told = await receiver.stdout.readline()
    finally:
        receiver.kill()
        await receiver.wait()
        await poster.close()
    assert (answer.status, forged.status) == (204, 400)
    assert told == b"some-id webhook.test x\n"


def self_signed(folder: Path, host: str) -> tuple[str, str]:
    """Files of a key and of its certificate."""
    key, certificate = str(folder / "key.pem"), str(folder / "certificate.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=test",
         "-addext", f"subjectAltName=DNS:{host}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, certificate
