"""Credentials do not belong in a recipe: it is committed, digested and recorded with the model."""

import re

from flows.recipe.faults import Fault

ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<user>[^\s/@'\"]+)@")
TOKEN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|"
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16}|sk-[\w-]{20,})"
)
KEY_BEFORE = re.compile(r"(?P<key>[A-Za-z_][\w-]*)['\"]?\s*:\s")
SECRET_KEY = re.compile(
    r"(^|[_-])(tokens?|secrets?|passwords?|passwd|pwd|(api|access|signing|private)[_-]?key|credentials?)([_-]|$)",
    re.IGNORECASE,
)

ADVICE = (
    "git: a credential helper (git config credential.helper); MLflow: MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD; a Hugging Face model: HF_TOKEN; signing: WIDEN_SIGNING_KEY"
)


def is_secret_key(key: str) -> bool:
    """Whether a key is named like a credential: api_key, access-token, password."""
    return SECRET_KEY.search(key) is not None


def leaks(text: str) -> list[Fault]:
    """A fault for each line of `text`, comments included, that holds a credential; none shows it."""
    faults = []
    for number, line in enumerate(text.splitlines(), start=1):
        start = _first_secret(line)
        if start is not None:
            keys = KEY_BEFORE.findall(line[:start])
            told = f"a credential stands here (its value is not shown); remove it and revoke it, then use {ADVICE}"
            faults.append(Fault((keys[-1],) if keys else (), told, number))
    return faults


def _first_secret(line: str) -> int | None:
    starts = [found.start() for found in TOKEN.finditer(line)]
    starts += [found.start() for found in ADDRESS.finditer(line) if not _is_login_name(found["scheme"], found["user"])]
    return min(starts, default=None)


def _is_login_name(scheme: str, user: str) -> bool:
    """ssh://git@host names an account; the same place in an https address is a password or a token."""
    return "ssh" in scheme.lower() and ":" not in user
