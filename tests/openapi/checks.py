"""What schemathesis checks of our API beside what it knows by itself.

ROLE is who asks: `nobody`, `bouncer`, `machine` or `admin`. The description says in `x-who` who may use a route.
"""

import os

import schemathesis

ROLE = os.environ["ROLE"]
# clients of the field expect this status for what cannot be understood or found; anything else is a fault of ours
BLAMES_ITSELF = 500
FAULTS = ("the database", "the store", "cannot sign", "there is no key")


def raw(case):
    return case.operation.definition.raw


@schemathesis.check
def no_fault_of_ours(ctx, response, case):
    """No 5xx, but for those that the description promises, and these say what they are about."""
    status = response.status_code
    if status < 500:
        return
    assert str(status) in raw(case)["responses"], f"{status} is not described"
    assert status in (BLAMES_ITSELF, 507), f"{status}: {response.text}"
    message = response.json()["message"]
    assert message and not any(fault in message for fault in FAULTS), message


@schemathesis.check
def nobody_without_right(ctx, response, case):
    """Who is not listed in `x-who` gets nothing."""
    who = raw(case)["x-who"]
    # all of them ask from this host
    if who and ROLE not in who and "host" not in who:
        assert response.status_code in (401, 403, 404, 405), f"{ROLE} got {response.status_code}: {response.text[:200]}"


@schemathesis.check
def the_rightful_are_let_in(ctx, response, case):
    """Who is listed in `x-who` is not taken for a stranger, where the method is one of the description."""
    if case.method.lower() != case.operation.method.lower():
        return
    who = raw(case)["x-who"]
    if ROLE in who and response.status_code in (401, 403):
        text = response.text
        allowed = ("is allowlisted by", "already exist", "access forbidden from this IP")
        assert any(reason in text for reason in allowed), f"{ROLE} was refused: {text[:200]}"
