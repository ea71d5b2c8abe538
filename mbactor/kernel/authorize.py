"""Who may call: `requires="roles.buyer && !suspended"` judged against the claims of the end user. Pure."""

from __future__ import annotations

from mbactor.errors import Forbidden, MbactorError, Unauthenticated
from mbactor.expressions import Expression
from mbactor.kernel.context import Claims


def refusal(requires: Expression, claims: Claims | None, name: str) -> MbactorError | None:
    """None where the claims satisfy the expression: Unauthenticated (401) where there are none, else Forbidden (403).

    A claim that is missing is null, as in the reference.
    """
    if claims is None:
        return Unauthenticated(name, str(requires))
    return None if requires.evaluate(claims) else Forbidden(name, str(requires))
