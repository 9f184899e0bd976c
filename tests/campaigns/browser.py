"""Opens reports in headless Chromium: `python tests/campaigns/browser.py REPORT.html … [--shots DIR]`.

Console errors, network requests, horizontal scrolling at 390 px and time to render, in light and dark and for print.
Talks to the browser over a pipe; needs nothing but a `chromium` on the path (Debian's package is enough).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next((c for c in ("chromium", "chromium-browser", "google-chrome") if shutil.which(c)), None)
PHONE, DESK = 390, 1300
MOST_SECONDS = 3.0
_OVERFLOW = """(() => {
  const wide = document.documentElement.scrollWidth > window.innerWidth;
  return {scroll: document.documentElement.scrollWidth, inner: window.innerWidth, wide: wide,
          scripts: document.scripts.length, images: document.images.length, ran: typeof window.pwned !== 'undefined'};
})()"""


_CUT_OFF = """(() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  return [...document.querySelectorAll('.wide')].filter(w => w.scrollWidth > w.clientWidth + 1)
    .map(w => w.getAttribute('aria-label') || 'unnamed');
})()"""


class Browser:
    """A headless Chromium with one page."""

    def __init__(self) -> None:
        if CHROMIUM is None:
            raise FileNotFoundError("no chromium on the path")
        self._profile = tempfile.mkdtemp(prefix="browser-")
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()

        def wire() -> None:
            # The browser reads from 3 and writes to 4; by way of high numbers lest one covers another.
            os.dup2(read_in, 103)
            os.dup2(write_out, 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={self._profile}",
             "--remote-debugging-pipe", "about:blank"],
            preexec_fn=wire, pass_fds=(3, 4, read_in, write_out),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read_in)
        os.close(write_out)
        self._in, self._out = os.fdopen(write_in, "wb"), os.fdopen(read_out, "rb")
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t for t in targets if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its answer; events that come meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        self._in.flush()
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._out.fileno(), 1 << 20)
            if not piece:
                raise RuntimeError("the browser went away")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(line))

    def open(self, url: str) -> float:
        """Navigates and waits for load and one painted frame; seconds."""
        self.events.clear()
        start = time.perf_counter()
        self.call("Page.navigate", url=url)
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        return time.perf_counter() - start

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return found["result"].get("value")

    def size(self, width: int, *, dark: bool = False, media: str = "") -> None:
        """Width of the view, colour scheme, medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def shot(self, file: Path, most: int = 6000) -> None:
        """The whole page as PNG, cut at `most` pixels."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(most, size["height"]), "scale": 1}
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(image["data"]))

    def close(self) -> None:
        """Ends the browser."""
        try:
            self._session = None
            self.call("Browser.close")
        except (RuntimeError, OSError):
            self._process.kill()
        self._process.wait(timeout=20)
        self._in.close()
        self._out.close()
        shutil.rmtree(self._profile, ignore_errors=True)


def look(report: Path, shots: Path | None = None) -> dict[str, Any]:
    """What happens when a report is opened."""
    browser = Browser()
    try:
        url = report.resolve().as_uri()
        browser.size(DESK)
        seconds = browser.open(url)
        desk = browser.evaluate(_OVERFLOW)
        errors, requests = _complaints(browser.events), _requests(browser.events, url)
        cut_off = browser.evaluate(_CUT_OFF)
        browser.size(PHONE)
        phone_seconds = browser.open(url)
        phone = browser.evaluate(_OVERFLOW)
        # Everything unfolded is wider and longer.
        cut_off_phone = browser.evaluate(_CUT_OFF)
        unfolded = browser.evaluate(_OVERFLOW)
        errors += _complaints(browser.events)
        requests += _requests(browser.events, url)
        if shots is not None:
            shots.mkdir(parents=True, exist_ok=True)
            name = report.resolve().parent.name
            for width, dark, media in (
                (DESK, False, ""),
                (DESK, True, ""),
                (PHONE, False, ""),
                (794, False, "print"),
            ):
                browser.size(width, dark=dark, media=media)
                browser.open(url)
                label = media or ("dark" if dark else "light")
                browser.shot(shots / f"{name}-{width}-{label}.png")
    finally:
        browser.close()
    return {
        "report": str(report),
        "bytes": report.stat().st_size,
        "seconds": round(min(seconds, phone_seconds), 3),
        "console_errors": errors,
        "requests": requests,
        "scrolls_sideways_at_390": bool(phone["wide"] or unfolded["wide"]),
        f"scrolls_sideways_at_{DESK}": bool(desk["wide"]),
        "tables_cut_off_at_390": cut_off_phone,
        f"tables_cut_off_at_{DESK}": cut_off,
        "scripts": desk["scripts"],
        "executed": bool(phone["ran"]),
    }


def _complaints(events: list[dict[str, Any]]) -> list[str]:
    found = []
    for event in events:
        params = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            found.append(str(params["entry"]["text"]))
        if event.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            found.append(json.dumps(params)[:300])
    return found


def _requests(events: list[dict[str, Any]], url: str) -> list[str]:
    asked = [e["params"]["request"]["url"] for e in events if e.get("method") == "Network.requestWillBeSent"]
    return [u for u in asked if u != url and not u.startswith("data:")]


def fine(found: dict[str, Any]) -> bool:
    """Whether a report opened as it should."""
    bad = (
        found["console_errors"] or found["requests"] or found["scrolls_sideways_at_390"] or found["executed"]
    )
    return not bad and not found["scripts"] and found["seconds"] < MOST_SECONDS


def main() -> int:
    """Exit code: 0 all fine, 1 not, 2 there is no browser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        print("no chromium on the path: apt-get install chromium", file=sys.stderr)
        return 2
    found = [look(r, arguments.shots) for r in arguments.reports]
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all(map(fine, found)) else 1


if __name__ == "__main__":
    sys.exit(main())
