"""What the page shows, as HTML: pure functions that escape all text from outside."""
