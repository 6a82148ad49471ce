"""The paper's results and claims beside our own, and the report of both."""
