"""The webhook against a real server: what it is told, again after an error, and never in the way."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    """Answers with the codes of `answers`, in their order, then with 200; keeps what it was told."""

    def __init__(self, answers: list[int], delay_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.delay_s, self.told, self.agents = answers, delay_s, [], []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        threading.Event().wait(self.server.delay_s)
        self.server.told.append((self.headers["Content-Type"], json.loads(body)))
        self.server.agents.append(self.headers["User-Agent"])
        self.send_response(self.server.answers.pop(0) if self.server.answers else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def serve() -> Iterator:
    started = []

    def start(*answers: int, delay_s: float = 0.0) -> Server:
        server = Server(list(answers), delay_s)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_a_message_is_where_chat_programs_look_for_it(serve):
    server, failed = serve(), []
    hook = Webhook(server.url, failed.append)
    hook.send("end", "s", "s: 3 finished")
    hook.close()
    body = {"event": "end", "sweep": "s", "text": "s: 3 finished", "content": "s: 3 finished"}
    assert server.told == [("application/json", body)]
    assert server.agents == ["orchestrate"], "urllib's own name is turned away by some"
    assert failed == []


def test_an_error_is_tried_again_and_the_order_is_kept(serve):
    server, failed = serve(500, 503), []
    hook = Webhook(server.url, failed.append, pauses_s=(0.0, 0.0))
    hook.send("error", "s", "first")
    hook.send("end", "s", "second")
    hook.close()
    assert [body["text"] for _, body in server.told] == ["first", "first", "first", "second"]
    assert failed == []


def test_what_cannot_be_told_is_told_here(serve):
    server, failed = serve(500, 500, 500), []
    hook = Webhook(server.url, failed.append, pauses_s=(0.0, 0.0))
    hook.send("end", "s", "lost")
    hook.close()
    assert len(server.told) == 3
    assert failed == ["the webhook of [notify] could not be told: HTTP Error 500: Internal Server Error"]


def test_nothing_waits_for_it(serve, tmp_path):
    server = serve(delay_s=5.0)
    hook = Webhook(server.url, lambda _: None)
    run = Run(tmp_path / "s" / "r", Point(id="1", name="r", params={}))
    began = time.monotonic()
    NotifyingListener(Heard(), hook).ended(run, "train", Result(failure=Failure.NAN, reason="the loss became nan"))
    hook.close(within_s=0.05)
    assert time.monotonic() - began < 4


def test_only_failures_for_good_are_told_and_all_is_passed_on(serve, tmp_path):
    server, heard = serve(), Heard()
    hook = Webhook(server.url, lambda _: None)
    telling, run = NotifyingListener(heard, hook), Run(tmp_path / "s" / "r", Point(id="1", name="r", params={}))
    telling.started(run, "train", 1, "")
    telling.ended(run, "train", Result(failure=Failure.OOM, reason="out of memory", retry=True))
    telling.ended(run, "train", Result(failure=Failure.NAN, reason="the loss became nan"))
    telling.ended(run, "train", Result(failure=None))
    hook.close()
    assert [body["text"] for _, body in server.told] == ["r: train failed, nan: the loss became nan"]
    assert [event for _, _, event in heard.events] == ["started 1", "oom", "nan", "done"]


def test_the_answers_are_sent_before_the_end(world):
    world.drive()
    answer = Answer(id="Q3", ask="Too low?", sweep="grid", verdict="yes", sentence="4 is better than 2.")
    assert list(webhook.ending(status.read_status(world.sweep), [answer])) == [
        ("answer", "Q3 Too low? Yes. 4 is better than 2."),
        ("end", "grid: 3 finished"),
    ]


@pytest.mark.parametrize("url", ["ftp://example.org/x", "file:///etc/passwd", "hooks.example.org", "https://", 7])
def test_only_web_addresses_are_taken(world, url):
    world.settle(sections=f"[notify]\nurl = {json.dumps(url)}")
    with pytest.raises(InputError, match="is not a web address"):
        settings.load(world.settings)


def test_a_sweep_tells_its_failure_and_its_end(world, serve):
    server = serve()
    world.settle(env={"STANDIN_TRAIN": "bad_config:network_dim=4"}, sections=f'[notify]\nurl = "{server.url}"')
    done = world.call()
    assert done.returncode == 1, done.stderr
    events = [body["event"] for _, body in server.told]
    assert (events[0], events[-1]) == ("error", "end")
    assert "1 failed" in server.told[-1][1]["text"]
    count = len(server.told)
    world.call()
    assert len(server.told) == count, "nothing new, nothing told"
