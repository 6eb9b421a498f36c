"""Tells one URL how a sweep goes: in a thread of its own, a few times at most, and nothing waits for it but the end."""

import json
import queue
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from orchestrator.model import Failure, Result
from orchestrator.report.answers.answer import Answer
from orchestrator.report.status import SweepStatus
from orchestrator.run.context import Listener
from orchestrator.store.layout import Run

TIMEOUT_S = 10.0
PAUSES_S = (1.0, 4.0)
"""Before the second try and before the third, which is the last."""
_HEADERS = {"Content-Type": "application/json", "User-Agent": "orchestrate"}
"""Some services, Discord's among them, turn away urllib's own name."""


class Webhook:
    """POSTs JSON with the message under `text` and `content`, where Slack, Mattermost and Discord look for it."""

    def __init__(self, url: str, failed: Callable[[str], None], pauses_s: Sequence[float] = PAUSES_S) -> None:
        """`failed` is told, in a sentence, of a message that could not be delivered."""
        self._url, self._failed, self._pauses_s = url, failed, pauses_s
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def send(self, event: str, sweep: str, text: str) -> None:
        """Returns at once."""
        body = {"event": event, "sweep": sweep, "text": text, "content": text}
        self._waiting.put(json.dumps(body, ensure_ascii=False).encode())

    def close(self, within_s: float = 2 * TIMEOUT_S) -> None:
        """Wait for what is under way, but no longer than this."""
        self._waiting.put(None)
        self._thread.join(within_s)

    def _deliver(self) -> None:
        while (body := self._waiting.get()) is not None:
            reason = ""
            for pause in (0.0, *self._pauses_s):
                time.sleep(pause)
                reason = _post(self._url, body)
                if not reason:
                    break
            if reason:
                self._failed(f"the webhook of [notify] could not be told: {reason}")


def _post(url: str, body: bytes) -> str:
    """Why it was not delivered; empty when it was."""
    request = urllib.request.Request(url, body, _HEADERS)  # noqa: S310 (settings: http(s))
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310
            return ""
    except (OSError, ValueError) as error:
        return str(error)


class NotifyingListener:
    """A Listener that passes everything on, and tells a webhook of runs that have failed for good."""

    def __init__(self, listener: Listener, webhook: Webhook) -> None:
        self._listener, self._webhook = listener, webhook

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        self._listener.started(run, stage, attempt, note)

    def ended(self, run: Run, stage: str, result: Result) -> None:
        self._listener.ended(run, stage, result)
        if result.failure and result.failure is not Failure.STOPPED_EARLY and not result.retry:
            text = f"{run.point.name}: {stage} failed, {result.failure}: {result.reason}"
            self._webhook.send("error", run.path.parent.name, text)


def ending(view: SweepStatus, answers: Sequence[Answer]) -> Iterator[tuple[str, str]]:
    """The notifications at the end of a run: (event, message) of each answer, then of the end."""
    for one in answers:
        yield "answer", f"{one.id} {one.ask} {one.verdict.capitalize()}. {one.sentence}"
    counts = Counter(row.status.state.value for row in view.rows)
    yield "end", f"{view.name}: " + ", ".join(f"{count} {state}" for state, count in counts.items())
