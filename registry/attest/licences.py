"""Under which licence a merge may go out: a merged model is a derivative of its base and of every parent.

A table decides, never a guess: where it has no answer there is no licence but a warning that says where to look. It is
no legal advice. Names are SPDX identifiers or Hugging Face's, in lower case. The rules stand in docs/provenance.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass

PERMISSIVE = frozenset(
    "0bsd afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 "
    "cc-by-2.5 cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 isc mit ms-pl ncsa "
    "postgresql unlicense wtfpl zlib".split()
)
# Without a licence's own terms for derivatives a merge may not go out at all.
NO_DERIVATIVES = frozenset("cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0".split())
# What says only that somebody should have said more.
SAYS_NOTHING = frozenset(("other", "unknown", "none", "noassertion", "proprietary", ""))
# Copyleft that does not take Apache-2.0's patent terms. Source: FSF's list of licences, "Apache License, Version 2.0".
_NOT_WITH_APACHE = frozenset(("gpl-2.0", "gpl-2.0-only", "lgpl-2.0", "lgpl-2.0-only", "lgpl-2.1-only"))


@dataclass(frozen=True)
class Check:
    """What the licences of a merge's inputs come to.

    `licences` are the merge's own, all of which bind (mostly one), and empty when no rule gives any; `warning` then
    says why and where to look. `inputs` are (model, licence or None).
    """

    licences: tuple[str, ...]
    inputs: tuple[tuple[str, str | None], ...]
    warning: str | None = None

    @property
    def expression(self) -> str | None:
        """The licences as one SPDX-like expression, or None."""
        return " AND ".join(self.licences) or None


def normal(licence: str) -> str:
    """A licence's name as the table writes it."""
    return licence.strip().lower()


def check(inputs: Iterable[tuple[str, str | None]]) -> Check:
    """The rule for these (model, licence or None), base and parents alike."""
    held = tuple(inputs)
    licences = tuple(sorted({normal(licence or "") for _, licence in held}))
    refusal = _refusal(held, licences)
    if refusal is not None:
        told = ", ".join(f"{model} ({licence or 'not stated'})" for model, licence in held)
        return Check((), held, f"no single licence for the merge: {refusal}; look at {told}")
    binding = tuple(licence for licence in licences if licence not in PERMISSIVE)
    return Check(binding or licences, held)


def _refusal(held: tuple[tuple[str, str | None], ...], licences: tuple[str, ...]) -> str | None:
    silent = [model for model, licence in held if normal(licence or "") in SAYS_NOTHING]
    if silent or not held:
        return f"that of {', '.join(silent) or 'every input'} is not known"
    closed = [licence for licence in licences if licence in NO_DERIVATIVES]
    if closed:
        return f"{', '.join(closed)} allows no derivatives, and a merge is one"
    binding = [licence for licence in licences if licence not in PERMISSIVE]
    if len(binding) > 1:
        return f"{' and '.join(binding)} each want the whole of it"
    if binding and binding[0] in _NOT_WITH_APACHE and "apache-2.0" in licences:
        return f"{binding[0]} and apache-2.0 exclude each other"
    return None
