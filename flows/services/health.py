"""Whether a server answers, and whether it takes our credentials; a worker is well where its server says so."""

import base64
import json
import urllib.error
import urllib.request
from datetime import datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

_SECONDS = 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know this machine's servers


def health_address(name: str, address: str) -> str:
    """Where a server says, without credentials, that it is well."""
    return f"{address}/api/health" if name == "prefect" else f"{address}/health"


def status(address: str, pair: str | None = None, body: Any = None) -> int | None:
    """The HTTP status of an answer, None where nobody answers within five seconds. `pair` is USER:PASSWORD."""
    return _ask(address, pair, body)[0]


def takes(name: str, address: str, pair: str) -> bool | None:
    """Whether the API behind a server lets `pair` in; None where it gives no answer in time, or one about itself."""
    if name == "prefect":
        code = status(f"{address}/api/work_pools/filter", pair, {"limit": 1})
    else:
        code = status(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", pair)
    if code == HTTPStatus.OK:
        return True
    return False if code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN) else None


def heartbeat(api: str, pair: str, pool: str, worker: str) -> float | None:
    """When `worker` of `pool` last told the Prefect API at `api` that it lives (Unix time); None: never, or offline."""
    found = _ask(f"{api}/work_pools/{quote(pool)}/workers/filter", pair, {})[1]
    for one in found if isinstance(found, list) else []:
        if one.get("name") == worker and one.get("status") == "ONLINE" and one.get("last_heartbeat_time"):
            return datetime.fromisoformat(one["last_heartbeat_time"]).timestamp()
    return None


def _ask(address: str, pair: str | None, body: Any) -> tuple[int | None, Any]:
    headers = {"Content-Type": "application/json"}
    if pair is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, headers)  # noqa: S310 - the address is a server's of ours
    try:
        with _DIRECT.open(request, timeout=_SECONDS) as answer:
            return answer.status, _parsed(answer.read())
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, None
    except (OSError, ValueError):
        return None, None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
