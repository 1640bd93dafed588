"""The error that refuses a request, and its HTTP reply in the format that OpenAI clients
understand.
"""

import math
from typing import Any

from gve_ray.errors import shortened

MAX_MESSAGE = 1000  # characters
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


class ApiError(Exception):
    """A request is refused.

    status: HTTP status of the reply. message: what is wrong and what to change, at most 1,000
    characters. param: the field at fault. code: the error for programs. retry_after: seconds after
    which the client may try again, with status 429 or 503.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        # Messages of libraries may contain the whole input.
        message = shortened(message, MAX_MESSAGE)
        param = None if param is None else shortened(param)
        super().__init__(status, message, param, code, retry_after)  # all arguments: Ray pickles errors
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """Return the JSON of the reply."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return the additional headers of the reply."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after is None else {"Retry-After": str(math.ceil(self.retry_after))}
