"""Who is told when a candidate is held or a run fails: a webhook, as a block and automations of the Prefect server."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flows.assets import asset
from flows.recipe.yaml_source import plain
from widen.errors import EnvironmentFault

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient

AUTOMATIONS = "deploy/automations.yaml"
BLOCK = "widen"
TYPE = "webhook"
ANY_BLOCK = "00000000-0000-0000-0000-000000000000"
"""What stands in the file for the block's id."""


def apply(url: str | None) -> tuple[str, ...]:
    """Have the server of PREFECT_API_URL call the webhook `url`; returns a line for each thing that is there now.

    The address is a secret of the block webhook/widen; the automations of deploy/automations.yaml call
    that block. Both are brought to what we ship, but an automation that was paused stays so. Without a `url` a block
    that somebody made under that name is used, and without one of those nothing is done. Raises EnvironmentFault where
    the server does not answer or refuses.
    """
    from httpx import HTTPError
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            block = _held_block(client) if url is None else _made_block(url)
            return () if block is None else tuple(_automations(client, block))
    except (HTTPError, PrefectException) as error:
        # The error's own words may quote the request, and with it the address.
        why = type(error).__name__
        raise EnvironmentFault(f"Prefect's server did not take the webhook ({why}); is it up?") from None


def _held_block(client: "SyncPrefectClient") -> "UUID | None":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_block_document_by_name(BLOCK, TYPE, include_secrets=False).id
    except ObjectNotFound:
        return None


def _made_block(url: str) -> "UUID":
    from prefect.blocks.webhook import Webhook

    # Not a notification block: where the webhook answers with an error, that one's address ends in the server's log.
    block = Webhook.model_validate({"method": "POST", "url": url, "headers": {"Content-Type": "application/json"}})
    found: UUID = block.save(BLOCK, overwrite=True, _sync=True)  # type: ignore[call-arg, assignment]
    return found


def _automations(client: "SyncPrefectClient", block: "UUID") -> Iterator[str]:
    """Create what is missing, bring the rest up to date."""
    from prefect.events.schemas.automations import AutomationCore

    yield f"block {TYPE}/{BLOCK}: there"
    for one in plain(asset(AUTOMATIONS))["automations"]:
        wanted = AutomationCore.model_validate(_with_block(one, block))
        held = client.read_automations_by_name(wanted.name)
        if not held:
            client.create_automation(wanted)
        for former in held:
            client.update_automation(former.id, wanted.model_copy(update={"enabled": former.enabled}))
        yield f"automation {wanted.name}: {'up to date' if held else 'made'}"


def _with_block(automation: Mapping[str, Any], block: "UUID") -> dict[str, Any]:
    actions = [
        {**action, "block_document_id": block} if action.get("block_document_id") == ANY_BLOCK else action
        for action in automation["actions"]
    ]
    return {**automation, "actions": actions}
