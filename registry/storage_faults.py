"""What goes wrong in a bucket, in one line: which bucket, what it answered, what to do. Imports no S3 client."""

import re
import sys
from collections.abc import Mapping

# Where boto3 and botocore keep the errors that are no subclass of one another.
_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("boto3.exceptions", "Boto3Error"),
    ("requests.exceptions", "RequestException"),
)
_NEXT: Mapping[str, str] = {
    "NoSuchBucket": "there is no such bucket: make it, or correct the address of the artifacts",
    "AccessDenied": "access denied: these credentials need leave to list, read, write and delete there",
    "InvalidAccessKeyId": "access denied, the key is unknown: correct AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "access denied, the secret is another: correct AWS_SECRET_ACCESS_KEY",
    "NoCredentials": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "EndpointConnection": "nobody answers at {endpoint}: start the storage, or correct MLFLOW_S3_ENDPOINT_URL",
}
_LONGEST = 400


def storage_errors() -> tuple[type[Exception], ...]:
    """The errors of the storage clients that this process has imported."""
    return tuple(getattr(sys.modules[module], name) for module, name in _ERRORS if module in sys.modules)


def storage_fault(error: Exception, bucket: str | None = None) -> str:
    """What `error` means for whoever keeps the storage, in one line; other errors in their own words.

    bucket: the address that is known to be asked, s3://BUCKET/PREFIX.
    """
    text = " ".join(str(error).split())
    if "mlflow-artifacts/artifacts" in text and re.search(r"\b5\d\d\b", text):
        return (
            "the server answers and its storage of artifacts does not; the server's log says why: look at the bucket "
            "or folder that it was started with (--artifacts-destination) and its credentials, then run again"
        )
    code = _code(error, text)
    if code is None:
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    endpoint = re.search(r'endpoint URL: "(\w+://[^/"]+)', text)
    told = _NEXT[code].format(endpoint=endpoint.group(1) if endpoint else "its address")
    return f"bucket {_bucket(error, text, bucket)}: {told}"


def _code(error: Exception, text: str) -> str | None:
    """Which entry of `_NEXT` this is; boto3 wraps the client's error in a text."""
    kind = type(error).__name__.removesuffix("Error")
    found = re.search(r"An error occurred \((\w+)\)", text)
    named = found.group(1) if found else kind
    aliases = {"403": "AccessDenied", "Forbidden": "AccessDenied", "ConnectTimeout": "EndpointConnection"}
    aliases["ConnectionClosed"] = "EndpointConnection"
    code = aliases.get(named, named)
    return code if code in _NEXT else None


def _bucket(error: Exception, text: str, asked: str | None) -> str:
    if asked is not None:
        return asked.removeprefix("s3://").partition("/")[0]
    answer = getattr(error, "response", None)
    if isinstance(answer, dict) and "BucketName" in answer.get("Error", {}):
        return str(answer["Error"]["BucketName"])
    found = re.search(r'endpoint URL: "\w+://[^/]+/([^/?"]+)', text) or re.search(r" to ([^/\s]+)/\S+: An error", text)
    return found.group(1) if found else "of the artifacts"
