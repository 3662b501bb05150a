"""boto3 clients for endpoints that are not trusted: botocore itself reads all but streamed answers whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from botocore.exceptions import ConnectionClosedError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

MAX_ANSWER_BYTES: Final = 1 << 20
_SECONDS: Final = 30.0
_PIECE_BYTES: Final = 64 << 10
# From here on an answer is never a stream.
_REFUSED: Final = 300


def bound_answers(client: Any) -> None:
    """Have every answer that is not handed out as a stream end after 1 MiB or 30 seconds, by `ResponseParserError`."""

    def send(request: Any, **_: object) -> Any:
        # Else the session itself reads all there is.
        streamed, request.stream_output = request.stream_output, True
        # The client's own session, with its time limits, proxies and certificates.
        answer = client._endpoint.http_session.send(request)
        if not streamed or answer.status_code >= _REFUSED:
            answer.raw = _Bounded(answer.raw)
            try:
                # Read here, as the session would, so that a broken connection is tried again.
                _ = answer.content
            except HTTPError as error:
                raise ConnectionClosedError(error=error, request=request, endpoint_url=request.url) from error
        return answer

    client.meta.events.register("before-send", send)


class _Bounded:
    """urllib3's response, but for what `botocore.awsrequest.AWSResponse.content` calls."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)

    def stream(self) -> Iterator[bytes]:
        deadline, left = time.monotonic() + _SECONDS, MAX_ANSWER_BYTES
        # What there is, not what was asked for: a trickle would never fill a piece.
        while piece := self._raw.read1(min(_PIECE_BYTES, left + 1)):
            left -= len(piece)
            if left < 0 or time.monotonic() > deadline:
                self._raw.close()
                raise ResponseParserError("an answer without end")
            yield piece
