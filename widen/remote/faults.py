"""What goes wrong between this machine and a storage: which of it may pass, and the rest in one line without a secret.

No text of a client's error is repeated: it may hold an address with a key in it, or a request's headers.
"""

import errno
from collections.abc import Iterator

from widen.errors import EnvironmentFault, InputsRefused, WidenError
from widen.remote.address import shown

_PASSING = (errno.EREMOTEIO, errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)
_NO_KEY = "access denied: the storage does not know this key; correct the credentials in the environment"
_ROUTE = "nobody answers there: check the address (AWS_ENDPOINT_URL for s3), the network and the server, then run again"
_SILENT = "the server accepts and does not answer in time; look at the server or the network, then run again"
_TOLD = {
    "NoSuchBucket": "there is no such bucket; make it, or correct the address",
    "NoCredentialsError": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "PartialCredentialsError": "incomplete credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both",
    "ProfileNotFound": "AWS_PROFILE names a profile that is not configured here",
    "InvalidAccessKeyId": _NO_KEY,
    "SignatureDoesNotMatch": "access denied: the secret is another; correct AWS_SECRET_ACCESS_KEY",
    "ExpiredToken": "access denied: the credentials have expired; renew them",
    "EndpointConnectionError": _ROUTE,
    "ConnectTimeoutError": _ROUTE,
    "ClientConnectorError": _ROUTE,
    "ConnectionRefusedError": _ROUTE,
    "ReadTimeoutError": _SILENT,
    "FSTimeoutError": _SILENT,
    "TimeoutError": _SILENT,
    "SlowDown": "the storage asks for fewer requests; run again later",
}  # fmt: skip
"""By the storage's code or the error's class, what it means and what to do."""


class CutShort(Exception):
    """An answer ended, or failed, before its last byte. Another attempt may cure it."""


class Changed(Exception):
    """The object is no longer the one that was opened."""


def may_pass(error: Exception) -> bool:
    """Whether another attempt may cure it, as far as the client has not tried on its own."""
    if hasattr(error.__cause__, "response"):  # botocore did
        return False
    if isinstance(error, CutShort | ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def is_missing(error: Exception) -> bool:
    """Whether it says that an object is not there, in a bucket that is."""
    return isinstance(error, FileNotFoundError) and "NoSuchBucket" not in set(_names(error))


def is_changed(error: Exception) -> bool:
    """Whether it says that an object is not the one, or not as long, as was asked for."""
    return isinstance(error, Changed) or bool({"PreconditionFailed", "412", "InvalidRange", "416"} & set(_names(error)))


def fault_of(url: str, error: Exception) -> WidenError:
    """The error to raise for `error`, which the storage at `url` answered with in the end."""
    place = shown(url)
    if isinstance(error, WidenError):
        return error
    if is_changed(error):
        return InputsRefused(f"{place} changed while it was read; nothing was published. Run again")
    known = next((_TOLD[name] for name in _names(error) if name in _TOLD), None)
    if known is not None:
        return EnvironmentFault(f"{place}: {known}")
    if isinstance(error, FileNotFoundError):
        return EnvironmentFault(f"{place}: nothing is there; check the address")
    if isinstance(error, PermissionError):
        return EnvironmentFault(f"{place}: access denied; these credentials need leave to list, read and write there")
    if isinstance(error, CutShort):
        return EnvironmentFault(f"{place}: the answer was cut short, also when asked again; check the network")
    name = next(iter(_names(error)))
    return EnvironmentFault(f"{place}: the storage answered {name}; look at the server's log, then run again")


def _names(error: BaseException) -> Iterator[str]:
    """The storage's codes and the classes of an error and of what it came from, the most telling first."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__
    for link in chain:
        answer = getattr(link, "response", None)
        if isinstance(answer, dict) and "Code" in answer.get("Error", {}):
            yield str(answer["Error"]["Code"])
    for link in chain:
        yield from (kind.__name__ for kind in type(link).__mro__ if kind not in (Exception, BaseException, object))
    yield type(error).__name__
