"""What a flow run's page shows: tables, text and links as Prefect artifacts.

Outside of a flow run nothing is done and nobody is asked. A key names what is told of which recipe, so that all
artifacts under it are that recipe's history. A page that cannot be told is a warning: no merge fails for it.
"""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)


def within_flow() -> bool:
    """Whether this is called within a flow run."""
    from prefect.runtime import flow_run

    return flow_run.get_id() is not None


def key_of(recipe: str, what: str) -> str:
    """An artifact's key: lower-case letters, digits and dashes."""
    return f"{re.sub(r'[^a-z0-9]+', '-', recipe.lower()).strip('-') or 'recipe'}-{what}"


def tell_table(key: str, rows: Sequence[dict[str, Any]], description: str) -> None:
    """A table, one row a mapping from its columns."""
    from prefect.artifacts import create_table_artifact

    _tell(create_table_artifact, list(rows), key, description)


def tell_markdown(key: str, text: str, description: str) -> None:
    """Text in Markdown."""
    from prefect.artifacts import create_markdown_artifact

    _tell(create_markdown_artifact, text, key, description)


def tell_link(key: str, link: str, text: str) -> None:
    """A link under the words `text`."""
    from prefect.artifacts import create_link_artifact

    _tell(create_link_artifact, link, key, text, link_text=text)


def _tell(create: Callable[..., Any], content: Any, key: str, description: str, **more: str) -> None:
    from httpx import HTTPError
    from prefect.exceptions import PrefectException

    if not within_flow():
        return
    try:
        create(content, key=key, description=description, **more)
    except (HTTPError, PrefectException, RuntimeError) as error:
        log.warning("the flow run's page lacks %s: %s: %s", key, type(error).__name__, error)
