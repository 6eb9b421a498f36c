"""Webhook notifications: a thread POSTs failures, answers and the end of a sweep to one URL; training never waits."""

import json
import queue
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPException

from orchestrator.model import Failure, Result
from orchestrator.redaction import redact
from orchestrator.report.answers.answer import Answer
from orchestrator.report.status import SweepStatus, read_status
from orchestrator.run.context import Context, Listener
from orchestrator.store.layout import Run, Sweep

TIMEOUT_S = 10.0
"""For the whole answer: a server may send it byte by byte."""
PAUSES_S = (1.0, 4.0)
"""Before the second and the third try."""
_MAX_REASON = 300
_HEADERS = {"Content-Type": "application/json", "User-Agent": "orchestrate"}
"""Some services, for example Discord, reject urllib's default user agent."""


class Webhook:
    """POSTs JSON with the message under `text` (Slack, Mattermost) and `content` (Discord)."""

    def __init__(self, url: str, failed: Callable[[str], None], pauses_s: Sequence[float] = PAUSES_S) -> None:
        """failed: gets one line about each failed try."""
        self._url, self._failed, self._pauses_s = url, failed, pauses_s
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def send(self, event: str, sweep: str, text: str) -> None:
        """Returns at once."""
        body = {"event": event, "sweep": sweep, "text": text, "content": text}
        encoded = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")  # file names may have surrogates
        self._waiting.put(encoded)

    def close(self, within_s: float = 2 * TIMEOUT_S) -> None:
        """Deliver the waiting messages, for at most this time."""
        self._waiting.put(None)
        self._thread.join(within_s)
        if self._thread.is_alive():
            self._failed(f"[notify] the webhook did not answer within {within_s:g} s; the last messages are lost")

    def _deliver(self) -> None:
        while (body := self._waiting.get()) is not None:
            for pause in (*self._pauses_s, None):
                if not (reason := _post(self._url, body)):
                    break
                then = "the message is lost" if pause is None else f"trying again in {pause:g} s"
                self._failed(f"[notify] the webhook failed: {reason}; {then}")
                time.sleep(pause or 0)


def _post(url: str, body: bytes) -> str:
    """The reason of a failure on one line; empty after success."""
    reasons: list[str] = []
    attempt = threading.Thread(target=lambda: reasons.append(_request(url, body)), daemon=True)
    attempt.start()
    attempt.join(TIMEOUT_S)
    return reasons[0] if reasons else f"no complete answer within {TIMEOUT_S:g} s"


def _request(url: str, body: bytes) -> str:
    try:
        request = urllib.request.Request(url, body, _HEADERS)  # noqa: S310 (settings: http(s))
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT_S):
            return ""
    except (OSError, ValueError, HTTPException) as error:
        malformed = "malformed answer: " if isinstance(error, HTTPException) else ""
        return malformed + redact(" ".join(str(error).split()))[:_MAX_REASON] or type(error).__name__


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is a failure: the message is for the configured host only."""

    def redirect_request(self, *_: object) -> None:
        return None


class NotifyingListener:
    """A Listener that also sends failures without another attempt to a webhook."""

    def __init__(self, listener: Listener, webhook: Webhook) -> None:
        self._listener, self._webhook = listener, webhook

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        self._listener.started(run, stage, attempt, note)

    def ended(self, run: Run, stage: str, result: Result) -> None:
        self._listener.ended(run, stage, result)
        if result.failure and result.failure is not Failure.STOPPED_EARLY and not result.retry:
            text = f"{run.point.name}: {stage} failed, {result.failure}: {result.reason}"
            self._webhook.send("error", run.path.parent.name, text)

    def message(self, text: str) -> None:
        self._listener.message(text)


@contextmanager
def notified(ctx: Context, sweep: Sweep, answers: Callable[[], Sequence[Answer]]) -> Iterator[Context]:
    """The context whose failures, answers and end also go to the webhook of its settings, if there is one."""
    if not ctx.settings.notify:
        yield ctx
        return
    hook = Webhook(ctx.settings.notify, ctx.listener.message)
    before = read_status(sweep)
    try:
        yield replace(ctx, listener=NotifyingListener(ctx.listener, hook))
    finally:
        after = read_status(sweep)
        if [row.status for row in after.rows] != [row.status for row in before.rows]:
            for event, text in ending(after, answers()):
                hook.send(event, sweep.name, text)
        hook.close()


def ending(view: SweepStatus, answers: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """The notifications at the end of a run: (event, message) of each answer, then of the end."""
    for one in answers:
        yield "answer", f"{one.id} {one.ask} {one.verdict.capitalize()}. {one.sentence}"
    counts = Counter(row.status.state.value for row in view.rows)
    yield "end", f"{view.name}: " + ", ".join(f"{count} {state}" for state, count in counts.items())
