"""LoRA adapters as models: `Adapter`, and the view of a model with an adapter on it."""

from widen.adapter.adapted import Adapted, Adapter
from widen.adapter.compose import JOIN, composed

__all__ = ["JOIN", "Adapted", "Adapter", "composed"]
