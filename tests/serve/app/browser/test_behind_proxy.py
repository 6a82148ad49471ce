"""The page behind a proxy with a path prefix."""

from pathlib import Path
from typing import Any

import pytest
from nginx import nginx
from playwright.sync_api import BrowserContext, expect

from .conftest import EXAMPLES, MARKS
from .driving import DIGITS, draw, go, open_page, says, upload

pytestmark = MARKS

LOCATIONS = """
location /removed/ {
  proxy_pass http://zoo/;
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-Prefix /removed;
}
location /kept/ {
  proxy_pass http://zoo;
  proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-Prefix /kept;
}
"""


@pytest.mark.parametrize("prefix", ["/removed", "/kept"])
def test_the_page_works_under_a_prefix(url: str, context: BrowserContext, tmp_path: Path, prefix: str) -> None:
    with nginx(tmp_path / "nginx", url, LOCATIONS) as proxied:
        failed: list[Any] = []
        context.on("requestfailed", lambda request: failed.append(request.url))
        context.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
        page = open_page(context, f"{proxied}{prefix}/")
        draw(page, DIGITS[7])
        expect(says(page)).to_contain_text("7")
        go(page, "Picture")
        example = page.locator(".gallery-item img:visible").first
        expect(example).to_have_js_property("complete", True)
        assert example.evaluate("image => image.naturalWidth") > 0
        assert example.evaluate("image => image.src").startswith(f"{proxied}{prefix}/")
        page.locator(".gallery-item:visible").first.click()
        expect(says(page, "picture")).to_contain_text("airplane")
        upload(page, "picture", EXAMPLES / "picture-cat.png")
        expect(says(page, "picture")).to_contain_text("cat")
        for tab in ("Compare", "Understand", "Models"):
            go(page, tab)
        # Browsers ask for an icon of the whole host by themselves.
        assert [address for address in failed if not address.endswith(("/favicon.ico", "/manifest.json"))] == []
        page.close()
