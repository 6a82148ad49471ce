"""Headers of forms."""

from python_multipart.multipart import parse_options_header

Headers = list[tuple[bytes, bytes]]


def without_charset(headers: Headers) -> Headers:
    """Strip a request's headers of all that they say of a form's type but the boundary.

    A charset would be that of the fields' names, which are ASCII. Starlette decodes them by it, and some make it fail.
    """
    return [(name, _plain(value) if name == b"content-type" else value) for name, value in headers]


def _plain(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind.lower() != b"multipart/form-data" or not boundary:
        return content_type
    return b'multipart/form-data; boundary="%s"' % boundary
