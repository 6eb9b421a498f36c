"""Webhook notifications to a real HTTP server: messages, retries, malformed replies, redirects."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from standins.world import Heard

from orchestrator.config import settings
from orchestrator.errors import InputError
from orchestrator.model import Failure, Point, Result
from orchestrator.report import status, webhook
from orchestrator.report.answers.answer import Answer
from orchestrator.report.webhook import NotifyingListener, Webhook
from orchestrator.store.layout import Run


class Server(ThreadingHTTPServer):
    """Answers with the codes of `answers`, in their order, then with 200; keeps the requests."""

    def __init__(self, answers: list[int], delay_s: float = 0.0, location: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.delay_s, self.location, self.received, self.agents = answers, delay_s, location, [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        threading.Event().wait(self.server.delay_s)
        self.server.received.append((self.headers["Content-Type"], json.loads(body)))
        self.server.agents.append(self.headers["User-Agent"])
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def serve() -> Iterator:
    started = []

    def start(*answers: int, **options: Any) -> Server:
        server = Server(list(answers), **options)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_a_message_is_under_text_and_content(serve):
    server, failed = serve(), []
    hook = Webhook(server.url, failed.append)
    hook.send("end", "s", "s: 3 finished")
    hook.close()
    body = {"event": "end", "sweep": "s", "text": "s: 3 finished", "content": "s: 3 finished"}
    assert server.received == [("application/json", body)]
    assert server.agents == ["orchestrate"], "some services reject urllib's user agent"
    assert failed == []


def test_a_failed_message_is_sent_again_and_the_order_is_kept(serve):
    server, failed = serve(500, 503), []
    hook = Webhook(server.url, failed.append, pauses_s=(0.0, 0.0))
    hook.send("error", "s", "first")
    hook.send("end", "s", "second")
    hook.close()
    assert [body["text"] for _, body in server.received] == ["first", "first", "first", "second"]
    assert failed == [
        "[notify] the webhook failed: HTTP Error 500: Internal Server Error; trying again in 0 s",
        "[notify] the webhook failed: HTTP Error 503: Service Unavailable; trying again in 0 s",
    ]


def test_a_message_is_lost_after_three_tries(serve):
    server, failed = serve(500, 500, 500), []
    hook = Webhook(server.url, failed.append, pauses_s=(0.0, 0.0))
    hook.send("end", "s", "lost")
    hook.close()
    assert len(server.received) == 3
    assert failed[2] == "[notify] the webhook failed: HTTP Error 500: Internal Server Error; the message is lost"


def test_a_redirect_is_refused(serve):
    target, failed = serve(), []
    server = serve(302, 307, location=target.url)
    hook = Webhook(server.url, failed.append, pauses_s=(0.0,))
    hook.send("end", "s", "text")
    hook.close()
    assert (len(server.received), target.received) == (2, [])
    assert "302" in failed[0]


@pytest.mark.parametrize(
    "reply", [b"nonsense\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200]
)
def test_a_malformed_reply_does_not_end_the_thread(reply):
    failed = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=reply_with, args=(listening, reply), daemon=True).start()
        hook = Webhook(f"http://127.0.0.1:{listening.getsockname()[1]}/", failed.append, pauses_s=())
        hook.send("end", "s", "first")
        hook.send("end", "s", "second")
        hook.close()
    assert len(failed) == 2
    assert all("\n" not in line for line in failed)
    assert not reply or "malformed answer: " in failed[0]


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 200 OK\r\na: b", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 500 " + b"A" * 60000]
)
def test_an_endless_answer_ends_in_a_short_line(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.3)
    failed: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening, reply), daemon=True).start()
        hook = Webhook(f"http://127.0.0.1:{listening.getsockname()[1]}/", failed.append, pauses_s=())
        hook.send("end", "sweep with a \udcff", "first")
        hook.close()
    assert len(failed) == 1
    assert len(failed[0]) < 400


def drip(listening: socket.socket, reply: bytes) -> None:
    """Repeat a reply until the client leaves."""
    connection, _address = listening.accept()
    with connection, contextlib.suppress(OSError):
        while True:
            connection.sendall(reply)
            time.sleep(0.05)


def test_messages_that_are_lost_at_the_end_are_reported(serve):
    server, failed = serve(delay_s=1), []
    hook = Webhook(server.url, failed.append)
    hook.send("end", "s", "text")
    hook.close(within_s=0.05)
    assert failed == ["[notify] the webhook did not answer within 0.05 s; the last messages are lost"]


def reply_with(listening: socket.socket, reply: bytes) -> None:
    for _ in range(2):
        connection, _address = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(reply)


@pytest.mark.parametrize("url", ["http://a b/", "http://[::1", "http://\x00/"])
def test_an_invalid_url_does_not_end_the_thread(url):
    failed = []
    hook = Webhook(url, failed.append, pauses_s=())
    hook.send("end", "s", "first")
    hook.send("end", "s", "second")
    hook.close()
    assert len(failed) == 2


def test_training_does_not_wait(serve, tmp_path):
    server = serve(delay_s=5.0)
    hook = Webhook(server.url, lambda _: None)
    run = Run(tmp_path / "s" / "r", Point(id="1", name="r", params={}))
    began = time.monotonic()
    NotifyingListener(Heard(), hook).ended(run, "train", Result(failure=Failure.NAN, reason="the loss became nan"))
    hook.close(within_s=0.05)
    assert time.monotonic() - began < 4


def test_only_final_failures_are_sent_and_all_events_are_passed_on(serve, tmp_path):
    server, heard = serve(), Heard()
    hook = Webhook(server.url, lambda _: None)
    notifying, run = NotifyingListener(heard, hook), Run(tmp_path / "s" / "r", Point(id="1", name="r", params={}))
    notifying.started(run, "train", 1, "")
    notifying.ended(run, "train", Result(failure=Failure.OOM, reason="out of memory", retry=True))
    notifying.ended(run, "train", Result(failure=Failure.NAN, reason="the loss became nan"))
    notifying.ended(run, "train", Result(failure=None))
    hook.close()
    assert [body["text"] for _, body in server.received] == ["r: train failed, nan: the loss became nan"]
    assert [event for _, _, event in heard.events] == ["started 1", "oom", "nan", "done"]


def test_the_answers_are_sent_before_the_end(world):
    world.drive()
    answer = Answer(id="Q3", ask="Too low?", sweep="grid", verdict="yes", sentence="4 is better than 2.")
    assert list(webhook.ending(status.read_status(world.sweep), [answer])) == [
        ("answer", "Q3 Too low? Yes. 4 is better than 2."),
        ("end", "grid: 3 finished"),
    ]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "hooks.example.org",
        "https://",
        7,
        "http://a b/",
        "http://[::1",
        "http://a:b/",
        "https://me:hunter22@example.org/x",
        "https://example.org/é",
        "https://a..b/",
    ],
)
def test_only_web_addresses_are_accepted(world, url):
    world.settle(sections=f"[notify]\nurl = {json.dumps(url)}")
    with pytest.raises(InputError, match=r"is not a web address|must be text"):
        settings.load(world.settings)


def test_a_sweep_sends_its_failure_and_its_end(world, serve):
    server = serve()
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"}, sections=f'[notify]\nurl = "{server.url}"')
    done = world.call()
    assert done.returncode == 1, done.stderr
    events = [body["event"] for _, body in server.received]
    assert (events[0], events[-1]) == ("error", "end")
    assert "1 failed" in server.received[-1][1]["text"]
    count = len(server.received)
    world.call()
    assert len(server.received) == count, "a run without changes sends nothing"
