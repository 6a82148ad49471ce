"""From bytes that strangers send to pixels: formats, limits and the preparation of digits."""
