"""The tabs of the page: their layout and their events."""
