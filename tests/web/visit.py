"""Somebody who visits the pages: a window in Chromium that knows nothing yet, and notes of what no page may do.

    with visiting(browser) as visit:
        visit.page.goto("http://127.0.0.1:8360/")
        expect(visit.page.locator("#no-scans")).to_be_visible()
    assert visit.errors == []

Playwright waits for what is expected. How long is said here only; a machine may stand still for a while.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, expect

PATIENCE = 60_000  # milliseconds, as Playwright counts
WHOLE_SCAN = 10 * PATIENCE

expect.set_options(timeout=PATIENCE)


class Visit:
    def __init__(self, context: BrowserContext) -> None:
        self.errors: list[str] = []  # in the console, warnings too, and exceptions that nobody caught
        self.requests: list[str] = []
        self.questions: list[str] = []  # of alert() and confirm(); each was answered with yes
        context.on("console", self._hear)
        context.on("weberror", lambda caught: self.errors.append(str(caught.error)))
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("dialog", self._agree)
        self.context = context
        self.page = context.new_page()

    def foreign_requests(self, address: str) -> list[str]:
        asked = [(urlsplit(url).scheme, urlsplit(url).netloc) for url in self.requests]
        return [f"{scheme}://{host}" for scheme, host in asked if host not in ("", urlsplit(address).netloc)]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.errors.append(f"{message.text} {message.location['url']}")

    def _agree(self, dialog: Dialog) -> None:
        self.questions.append(dialog.message)
        dialog.accept()


@contextmanager
def visiting(browser: Browser, width: int = 1280, **context: Any) -> Iterator[Visit]:
    """A visit by somebody who was never here; `context` says what else is different about their browser."""
    with browser.new_context(viewport={"width": width, "height": 800}, **context) as opened:
        opened.set_default_timeout(PATIENCE)
        yield Visit(opened)
