"""Measure what a visitor waits for and what the page holds: first result, last stroke to result, memory.

    python benchmarks/app_latency.py [--url http://127.0.0.1:8000] [--count 40]

Draws digits in headless Chromium on the page of a running server. The times are taken in the page: from the request for
it to the first result, and from the `pointerup` that ends a drawing to the last change of the result. The memory is
what JavaScript holds after a garbage collection.
"""

import argparse
import shutil
import statistics

from playwright.sync_api import CDPSession, Page, sync_playwright

# Each gives a result of its own: the result of the same drawing again would not change the page.
DRAWINGS = [
    [(60, 60), (200, 60), (120, 230)],
    [(140, 40), (140, 240)],
    [(70, 70), (200, 70), (80, 220), (210, 220)],
    [(90, 40), (70, 150), (200, 150), (160, 150), (165, 240), (165, 60)],
]
WATCH = """() => {
    const canvas = document.querySelector("#pad canvas");
    const result = document.querySelector("#digit-answer");
    window.up = window.changed = 0;
    canvas.addEventListener("pointerup", () => { window.up = performance.now(); }, true);
    new MutationObserver(() => { window.changed = performance.now(); })
        .observe(result, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--count", type=int, default=40, help="drawings that are timed, at least 10")
    arguments = parser.parse_args()
    if arguments.count < 10:  # some have their result before the last stroke ends, and have no time
        parser.error(f"--count {arguments.count}: must be at least 10")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        tools = page.context.new_cdp_session(page)
        page.goto(arguments.url)
        page.locator("#pad canvas").wait_for()
        box = page.locator("#pad canvas").bounding_box()
        assert box is not None
        scale = box["width"] / 280
        first = first_result(page, [(box["x"] + x * scale, box["y"] + y * scale) for x, y in DRAWINGS[1]])
        page.get_by_role("button", name="Clear", exact=True).click()
        page.evaluate(WATCH)
        for i in range(arguments.count + 3):
            points = [(box["x"] + (x + i % 7) * scale, box["y"] + y * scale) for x, y in DRAWINGS[i % len(DRAWINGS)]]
            page.mouse.move(*points[0])
            page.mouse.down()
            for x, y in points[1:]:
                page.mouse.move(x, y, steps=12)
                page.wait_for_timeout(60)  # as slow as a hand: results for the unfinished drawing come meanwhile
            page.mouse.up()
            page.wait_for_timeout(1200)
            if i >= 3:
                times.append(page.evaluate("changed - up"))
            page.get_by_role("button", name="Clear", exact=True).click()
            page.wait_for_timeout(300)
            if i == 2:
                before = heap(tools)
        after = heap(tools)
        browser.close()
    late = sorted(time for time in times if time > 0)
    early = len(times) - len(late)
    print(
        f"{len(times)} drawings, last stroke to new result: {statistics.median(late):.0f} ms at the median, "
        f"{late[int(0.95 * (len(late) - 1))]:.0f} ms at the 95th percentile"
        + (f"; {early} already had their result" if early else "")
    )
    print(f"first result {first:.1f} s after the page was asked for")
    print(
        f"memory of the page: {before / 1e6:.1f} MB after 3 drawings, {after / 1e6:.1f} MB after {arguments.count + 3}"
    )


def first_result(page: Page, points: list[tuple[float, float]]) -> float:
    """Draw at once, and return the seconds from the request for the page to its first result."""
    page.mouse.move(*points[0])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(x, y, steps=12)
    page.mouse.up()
    page.locator("#digit-answer .bars").wait_for()
    return float(page.evaluate("performance.now()")) / 1e3


def heap(tools: CDPSession) -> float:
    """Return the bytes that the page's JavaScript holds."""
    tools.send("HeapProfiler.collectGarbage")
    return float(tools.send("Runtime.getHeapUsage")["usedSize"])


if __name__ == "__main__":
    main()
