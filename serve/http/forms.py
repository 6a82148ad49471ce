"""The content-type header of forms."""

from python_multipart.multipart import parse_options_header

Headers = list[tuple[bytes, bytes]]


def without_charset(headers: Headers) -> Headers:
    """Remove all parameters of a form's content-type but the boundary from a request's headers.

    Starlette decodes the fields' names, which are ASCII, with the form's charset, and fails for some charsets.
    """
    return [(name, _plain(value) if name == b"content-type" else value) for name, value in headers]


def _plain(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind.lower() != b"multipart/form-data" or not boundary:
        return content_type
    return b'multipart/form-data; boundary="%s"' % boundary
