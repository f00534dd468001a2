"""Opens a file in headless Chromium by the DevTools protocol over pipes, and prints what it finds as JSON.

usage: browser.py CHROMIUM PROFILE FILE SCREENSHOTS

At each width, in light and in dark, it notes what is wider than the window, the figures of the tiles, what was
requested and what the console says, and writes a screenshot and a printed page (PDF) into SCREENSHOTS.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys

WIDTHS = [1280, 400]
SCHEMES = ["light", "dark"]
MEASURE = """(() => {
  const width = document.documentElement.clientWidth;
  const wider = [...document.querySelectorAll('body *')].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width > 0 && (box.right > width + 0.5 || box.left < -0.5) && !one.closest('details:not([open])');
  });
  const cut = [...document.querySelectorAll('body *')].filter((one) =>
    one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0 && getComputedStyle(one).display !== 'inline');
  return {
    width,
    scroll_width: document.documentElement.scrollWidth,
    wider: wider.map((one) => one.outerHTML.slice(0, 120)),
    cut: cut.map((one) => one.outerHTML.slice(0, 120)),
    scripts: document.scripts.length,
    tiles: [...document.querySelectorAll('.tiles b')].map((one) => one.textContent),
    cards: document.querySelectorAll('section.card').length,
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
})()"""


class Browser:
    """A browser, and its protocol: JSON texts that end with a NUL, on descriptors 3 and 4."""

    def __init__(self, program, profile):
        requests, self.requests = os.pipe()
        self.replies, replies = os.pipe()

        def set_descriptors():
            # By way of others, since the pipes can have the numbers 3 and 4 themselves.
            os.dup2(requests, 60)
            os.dup2(replies, 61)
            os.dup2(60, 3)
            os.dup2(61, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=set_descriptors, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(requests)
        os.close(replies)
        self.buffer = b""
        self.last_id = 0
        self.events = []

    def receive(self):
        while b"\0" not in self.buffer:
            piece = os.read(self.replies, 1 << 20)
            if not piece:
                sys.exit("the browser has ended")
            self.buffer += piece
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, session=None, **params):
        self.last_id += 1
        request = {"id": self.last_id, "method": method, "params": params}
        if session:
            request["sessionId"] = session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.requests, data):]
        while True:
            message = self.receive()
            if message.get("id") == self.last_id:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self.receive())


def look(browser, url, width, scheme, directory):
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ["Page", "Network", "Log", "Runtime"]:
        browser.call(f"{domain}.enable", session)
    browser.call("Emulation.setDeviceMetricsOverride", session, width=width, height=900, deviceScaleFactor=1, mobile=False)
    browser.call("Emulation.setEmulatedMedia", session, features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.events.clear()
    browser.call("Page.navigate", session, url=url)
    browser.wait_for("Page.loadEventFired")
    found = browser.call("Runtime.evaluate", session, expression=MEASURE, returnByValue=True)["result"]["value"]
    image = browser.call("Page.captureScreenshot", session, format="png", captureBeyondViewport=True)["data"]
    # What is folded is shown too, and is as narrow.
    unfold = "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
    browser.call("Runtime.evaluate", session, expression=unfold)
    unfolded = browser.call("Runtime.evaluate", session, expression=MEASURE, returnByValue=True)["result"]["value"]
    browser.call("Runtime.evaluate", session, expression=unfold.replace("true", "false"))
    name = f"review-{width}-{scheme}"
    (directory / f"{name}.png").write_bytes(base64.b64decode(image))
    printed = browser.call("Page.printToPDF", session, preferCSSPageSize=False)["data"]
    (directory / f"{name}.pdf").write_bytes(base64.b64decode(printed))
    said = [event["params"] for event in browser.events
            if event.get("method") in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")]
    requested = [event["params"]["request"]["url"] for event in browser.events
                 if event.get("method") == "Network.requestWillBeSent"]
    browser.call("Target.closeTarget", targetId=target)
    return {"asked_width": width, "scheme": scheme, "name": name, "folded": found, "unfolded": unfolded,
            "said": said, "requested": requested}


def main():
    program, profile, file, directory = sys.argv[1:]
    browser = Browser(program, profile)
    url = pathlib.Path(file).resolve().as_uri()
    try:
        views = [look(browser, url, width, scheme, pathlib.Path(directory)) for width in WIDTHS for scheme in SCHEMES]
    finally:
        browser.process.kill()
        browser.process.wait()
    print(json.dumps({"url": url, "views": views}))


main()
