"""Patience with servers: what is asked of them is asked again after errors that may pass."""

import ssl
import time
from collections.abc import Callable
from http.client import HTTPException
from socket import gaierror
from typing import TypeVar
from urllib.error import HTTPError, URLError

TIMEOUT_S = 30
"""How long a server may be silent."""
PAUSES_S = (1.0, 2.0, 4.0)
"""How long to wait before each further attempt after a transient error."""
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
"""What a request and the reading of its answer raise."""

_NO_SUCH_SERVER = (gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError)
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}

T = TypeVar("T")


def patiently(work: Callable[[], T]) -> T:
    """Do `work`, again after each pause while it fails in a way that may pass.

    Raises:
        Exception: one of `NETWORK_ERRORS`, the last one, or at once one that will not pass.
    """
    for pause in (*PAUSES_S, None):
        try:
            return work()
        except NETWORK_ERRORS as error:
            if isinstance(error, HTTPError):
                error.close()
            if pause is None or not _is_transient(error):
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _is_transient(error: Exception) -> bool:
    if isinstance(error, HTTPError):
        return error.code in _TRANSIENT_STATUS
    return not (isinstance(error, URLError) and isinstance(error.reason, _NO_SUCH_SERVER))
