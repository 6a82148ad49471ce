"""The app's calls over HTTP: in two requests (/call), and in one (/run)."""

import json
import urllib.request

import numpy as np

from .clients import script, wrk
from .messages import Message, form

# A call of the app in two requests: begin it, and read the event with its result.
CALLS = """
local event
request = function()
  if event then return wrk.format("GET", wrk.path .. "/" .. event, {}, "") end
  return wrk.format("POST", wrk.path, {["Content-Type"] = "application/json"}, %s)
end
response = function(status, headers, body)
  event = string.match(body, '^{"event_id":"(%%w+)"')
  if not event and not string.find(body, "event: complete", 1, true) then os.exit(1) end
end
"""


def calls(port: int, model: str, image: bytes, expected: int, seconds: float) -> dict[str, float]:
    """Return the app's calls per second at one connection: in two requests each, and in one.

    Raises:
        SystemExit: the app returns another class than expected.
    """
    url = f"http://127.0.0.1:{port}/gradio_api"
    upload = form("/upload", name="files")(image, np.empty(0))
    with urllib.request.urlopen(urllib.request.Request(url + upload.path, upload.body, upload.headers)) as response:
        (path,) = json.loads(response.read())
    body = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, model]}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/run/classify_picture", body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        found = json.loads(response.read())["data"][0]["predictions"][0]["index"]
    if found != expected:
        raise SystemExit(f"the app returns class {found}, the bare loop {expected}")
    call = Message("", body, headers, lambda _: [])
    queued = wrk(f"{url}/call/classify_picture", CALLS % json.dumps(body.decode()), 1, seconds)
    direct = wrk(f"{url}/run/classify_picture", script(call), 1, seconds)
    return {"queued": queued.rate / 2, "direct": direct.rate, "app_failed": queued.failed + direct.failed}
