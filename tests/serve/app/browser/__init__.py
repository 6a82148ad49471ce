"""A package, so that fixtures of that scope end with its last test: `asyncio.run` fails while Playwright is there."""
