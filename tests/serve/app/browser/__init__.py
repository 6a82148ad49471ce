"""A package, so that package-scoped fixtures end with its last test: `asyncio.run` fails while Playwright runs."""
