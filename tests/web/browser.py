"""Headless Chromium, driven over its DevTools pipe: no driver, no package, no port.

    with Chromium(folder) as browser:
        browser.begin(folder)
        browser.open("http://127.0.0.1:8360/")
        browser.wait("document.title")

It writes down what a page must not do: errors in the console, requests to other hosts.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

PATIENCE_SECONDS = 30.0
LEAVING = (
    "Inspected target navigated or closed",
    "Execution context was destroyed.",
    "Cannot find default execution context",
)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # it refuses to start as root with one; it sees nothing but our own pages
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

# It reads commands from descriptor 3 and answers on 4.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
WHERE = """(() => {
    const element = document.querySelector(%s);
    element.scrollIntoView({block: "center", behavior: "instant"});
    const {x, y, width, height} = element.getBoundingClientRect();
    return [x + width / 2, y + height / 2];
})()"""


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


class PageLeft(Exception):
    """The page that was asked made way for the next one before it had answered."""


class Chromium:
    """A browser, seen through the window of one person at a time."""

    def __init__(self, folder: Path) -> None:
        self.downloads = folder
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.questions: list[str] = []  # of alert() and confirm() that nobody has answered
        self._number, self._received = 0, b""
        self._session: str | None = None
        binary = chromium()
        assert binary is not None
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        theirs = [fcntl(descriptor, F_DUPFD, 10) for descriptor in (commands, answers)]  # neither is 3 or 4
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, theirs), binary, *FLAGS, f"--user-data-dir={folder / 'profile'}"],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for descriptor in (commands, answers, *theirs):
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def begin(self, folder: Path) -> None:
        """A window of somebody who was never here; downloads come into the folder."""
        self.downloads, self.errors, self.requests, self.questions = folder, [], [], []
        self._session = None
        person = self.do("Target.createBrowserContext", disposeOnDetach=True)["browserContextId"]
        target = self.do("Target.createTarget", url="about:blank", browserContextId=person)["targetId"]
        self._session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.do(f"{domain}.enable")
        behaviour = {"behavior": "allow", "downloadPath": str(folder), "browserContextId": person}
        self.do("Browser.setDownloadBehavior", **behaviour)
        self._person = person

    def end(self) -> None:
        self.do("Target.disposeBrowserContext", browserContextId=self._person)

    def __exit__(self, *raised: object) -> None:
        os.close(self._out)  # it ends when nobody commands it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        os.close(self._in)

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its result."""
        number = self._post(method, **parameters)
        while (answer := self._next(PATIENCE_SECONDS)).get("id") != number:
            self._note(answer)
        if answer.get("error", {}).get("message") in LEAVING:
            raise PageLeft(method)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def open(self, url: str) -> None:
        self.do("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def ask(self, expression: str, **where: int) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, **where)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = PATIENCE_SECONDS) -> Any:
        """The first true value of an expression; one that fails counts as not yet, the page may be on its way."""
        deadline = time.monotonic() + seconds
        hopeful = f"(() => {{ try {{ const it = {expression}; return it instanceof Node || it; }} catch {{}} }})()"
        while time.monotonic() < deadline:
            with suppress(PageLeft):
                if value := self.ask(hopeful):
                    return value
            time.sleep(0.05)
        raise TimeoutError(f"{expression}: not within {seconds} s. {self.ask('document.body.innerText')}")

    def text(self, selector: str) -> str:
        """What people read there."""
        return str(self.ask(f"document.querySelector({json.dumps(selector)}).innerText"))

    def in_frame(self, expression: str) -> Any:
        """The value of an expression in the page's frame, which may have got a process of its own."""
        targets = self.do("Target.getTargets")["targetInfos"]
        apart = [it["targetId"] for it in targets if (it["type"], it["browserContextId"]) == ("iframe", self._person)]
        if not apart:
            (child,) = self.do("Page.getFrameTree")["frameTree"]["childFrames"]
            world = self.do("Page.createIsolatedWorld", frameId=child["frame"]["id"])["executionContextId"]
            return self.ask(expression, contextId=world)
        page, self._session = self._session, None
        try:
            self._session = self.do("Target.attachToTarget", targetId=apart[0], flatten=True)["sessionId"]
            return self.ask(expression)
        finally:
            self._session = page

    def click(self, selector: str) -> None:
        """Click with the mouse, where the element is seen; something else lying above it would get the click."""
        place = self.ask(WHERE % json.dumps(selector))
        for kind in ("mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self.do("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def write(self, text: str) -> None:
        self.do("Input.insertText", text=text)

    def choose_file(self, selector: str, path: Path) -> None:
        root = self.do("DOM.getDocument")["root"]["nodeId"]
        node = self.do("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.do("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop_files(self, x: float, y: float, *paths: Path) -> None:
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.do("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def delete_by(self, selector: str) -> None:
        """Click, and say yes to the question that follows."""
        place = self.ask(WHERE % json.dumps(selector))
        self.do("Input.dispatchMouseEvent", type="mousePressed", x=place[0], y=place[1], button="left", clickCount=1)
        self._post(
            "Input.dispatchMouseEvent", type="mouseReleased", x=place[0], y=place[1], button="left", clickCount=1
        )
        while not self.questions:
            self._note(self._next(PATIENCE_SECONDS))
        self.questions.pop()
        self.do("Page.handleJavaScriptDialog", accept=True)

    def look(self, width: int, dark: bool = False, calm: bool = False) -> None:
        """See the page as on another screen."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        features = {"prefers-color-scheme": "dark" if dark else "light"}
        features["prefers-reduced-motion"] = "reduce" if calm else "no-preference"
        self.do("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()])

    def picture(self, path: Path, whole: bool = True) -> None:
        """A screenshot, of the whole page or of what the window shows."""
        shot = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(shot))

    def foreign_requests(self, address: str) -> list[str]:
        asked = [(urlsplit(url).scheme, urlsplit(url).netloc) for url in self.requests]
        return [f"{scheme}://{host}" for scheme, host in asked if host not in ("", urlsplit(address).netloc)]

    def _post(self, method: str, **parameters: Any) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._number

    def _note(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled" if said["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(said["args"]))
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(said["exceptionDetails"]))
            case "Log.entryAdded" if said["entry"]["level"] == "error":
                self.errors.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(said["request"]["url"])
            case "Page.javascriptDialogOpening":
                self.questions.append(said["message"])

    def _next(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._in], [], [], seconds)
            assert ready, f"the browser says nothing for {seconds} s"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser has ended"
            self._received += chunk
        message, _, self._received = self._received.partition(b"\0")
        return dict(json.loads(message))
