"""Headless Chromium driven over its DevTools pipe, with the standard library alone."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

TIMEOUT_S = 30


class Browser:
    """One page in one headless Chromium. Keeps every request, console message and exception of the page."""

    def __init__(self):
        program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if program is None:
            raise SystemExit("found no chromium, expected one on PATH; apt-get install chromium")
        self.profile = tempfile.mkdtemp(prefix="weft-page-")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                   "--no-first-run", "--disable-background-networking", "--disable-component-update", "--force-device-scale-factor=1",
                   f"--user-data-dir={self.profile}", "--remote-debugging-pipe", "about:blank"]
        # The browser reads commands from descriptor 3 and writes to 4.
        shell = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$@"'
        self._process = subprocess.Popen(["bash", "-c", shell, "bash"] + command, pass_fds=(to_browser, from_browser),
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self._buffer = b""
        self._last_id = 0
        self.requests = []
        self.problems = []
        targets = self._call("Target.getTargets", session=None)["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility"):
            self._call(f"{domain}.enable")

    def close(self):
        os.close(self._write)
        try:
            self._process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        shutil.rmtree(self.profile, ignore_errors=True)

    def look(self, width, height, dark=False):
        """Sets the window and the colour scheme."""
        self._call("Emulation.setDeviceMetricsOverride",
                   {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False})
        self._call("Emulation.setEmulatedMedia",
                   {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
                                 {"name": "prefers-reduced-motion", "value": "reduce"}]})

    def open(self, url):
        self.requests.clear()
        self.problems.clear()
        self._call("Page.navigate", {"url": url})

    def run(self, expression):
        """Value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def wait_for(self, expression):
        """Until the expression is true; the page gets time in between."""
        end = time.monotonic() + TIMEOUT_S
        while not self.run(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise AssertionError(f"not within {TIMEOUT_S} s: {expression}\npage shows: {self.run('document.body?.innerText')}"
                                     f"\nproblems: {self.problems}")
            self._pump(0.02)

    def move_mouse(self, x, y):
        self._call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", {"type": kind, "key": key, "code": key})

    def screenshot(self, path, full=True):
        self._call("Runtime.evaluate", {"expression": "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))",
                                        "awaitPromise": True})
        image = self._call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": full})
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["data"]))

    def _call(self, method, params=None, session=""):
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params or {}}
        if session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT_S
        while time.monotonic() < end:
            for answer in self._pump(1):
                if answer.get("id") == message["id"]:
                    if "error" in answer:
                        raise AssertionError(f"{method}: {answer['error']}")
                    return answer["result"]
        raise AssertionError(f"{method}: no answer from the browser within {TIMEOUT_S} s")

    def _pump(self, seconds):
        """Takes what the browser says within the time: events are kept, answers returned."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        if not ready:
            return []
        data = os.read(self._read, 1 << 20)
        if not data:
            raise AssertionError("the browser ended")
        *messages, self._buffer = (self._buffer + data).split(b"\0")
        messages = [json.loads(m) for m in messages]
        for message in messages:
            self._keep(message)
        return [m for m in messages if "id" in m]

    def _keep(self, message):
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.problems.append(params["exceptionDetails"].get("exception", {}).get("description", "exception"))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.problems.append(f"console.{params['type']}: {params['args']}")
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Page.javascriptDialogOpening":
                self.problems.append(f"dialog: {params['message']}")
                # Unanswered, it would hold up everything else.
                os.write(self._write, json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog", "sessionId": self._session,
                                                  "params": {"accept": True}}).encode() + b"\0")
