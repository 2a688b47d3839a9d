"""Telling people: by whatever Apprise knows, from mail to chat. Its URLs hold passwords, and are neither shown nor logged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cbk.rules.status.delivery import delivery_problem

if TYPE_CHECKING:
    from apprise import NotifyBase
    from apprise.result import NotifyResult

NOTIFY_TIMEOUT_SECONDS = 10.0

logger = logging.getLogger(__name__)
# It writes URLs and payloads into its log: what it says is for `delivery_problem` alone.
_log = logging.getLogger("apprise")
_log.propagate = False
_log.setLevel(logging.DEBUG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a message at one service: its `name`, such as Slack, and why it did not get there, where it did not."""

    name: str
    problem: str = ""


class Notifier:
    """Sends messages to the services behind `urls`; with none, it sends nothing."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(urls)

    @property
    def is_configured(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._urls)

    def unknown(self) -> list[int]:
        """Which of the URLs, counted from 1, are of no service that there is."""
        return [number for number, service in enumerate(self._services(), start=1) if service is None]

    def notify(self, subject: str, text: str) -> bool:
        """Tell people. Whether at least one service took the message; what it did not reach is logged and never raised."""
        deliveries = self.deliver(subject, text)
        for delivery in deliveries:
            if delivery.problem:
                facts = {"service": delivery.name, "reason": delivery.problem, "subject": subject}
                logger.warning("notification not sent", extra={"facts": facts})
        return any(not delivery.problem for delivery in deliveries)

    def deliver(self, subject: str, text: str) -> list[Delivery]:
        """Send plain text to every service, and say what became of it at each."""
        if not self._urls:
            return []
        import apprise  # noqa: PLC0415 - 24 MB that a worker who tells nobody anything has better uses for

        services = self._services()
        lost = [
            Delivery(name=f"URL {number}", problem="no service that is known")
            for number, service in enumerate(services, start=1)
            if service is None
        ]
        results = apprise.Apprise([service for service in services if service is not None]).notify(
            text,
            subject,
            notify_type=apprise.NotifyType.WARNING,
            body_format=apprise.NotifyFormat.TEXT,
            timeout=NOTIFY_TIMEOUT_SECONDS,
            log_level=logging.DEBUG,
        )
        return lost + [Delivery(name=each.name, problem=_problem(each)) for each in results]

    def _services(self) -> list[NotifyBase | None]:
        """A service for each URL, None where there is none such."""
        if not self._urls:
            return []
        import apprise  # noqa: PLC0415 - as above

        services = [apprise.Apprise.instantiate(url) for url in self._urls]
        for service in services:
            if service is not None:
                service.overflow_mode = apprise.OverflowMode.SPLIT  # one that is longer than the service takes comes in parts
        return services


def _problem(result: NotifyResult) -> str:
    if result:
        return ""
    said = [entry.message for attempt in result for entry in attempt.logs]
    return delivery_problem(said, timed_out=result.status.name == "TIMEOUT")
