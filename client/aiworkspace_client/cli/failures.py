"""Explains errors to people, with the next step, and maps them to exit codes for scripts."""

from aiworkspace_client import errors
from aiworkspace_client.cli import output
from aiworkspace_client.errors import AiWorkspaceError

REFUSED = 1
USAGE = 2
NOT_SIGNED_IN = 3
UNREACHABLE = 4
INTERRUPTED = 130

_KEY_REFUSED = "the key in AIWS_API_KEY does not work"

# The next step, by reason, else by class.
_NEXT_BY_REASON = {
    "PASSWORD_WRONG": "Try again, or create an account with: aiws register",
    "RUN_IN_PROGRESS": "Wait for the end of the answer; aiws conversations show ID shows it.",
    "INVITATION_CLOSED": "Ask for a new invitation.",
    "CONTEXT_TOO_LONG": "Send less, or use a model with a larger context: aiws models list",
    "PROVIDER_MISCONFIGURED": "Ask an administrator to correct the provider's key. For other models: aiws models list",
    "MODEL_NOT_ALLOWED": "aiws models list shows those that are allowed.",
    "PROVIDER_UNAVAILABLE": "Try again, or another model: aiws models",
    "PROVIDER_RATE_LIMITED": "Try again later, or another model: aiws models",
    "PROVIDER_TIMEOUT": "Try again, or another model: aiws models",
    "PROVIDER_STREAM_CUT": "Try again, or another model: aiws models",
    "RUN_INTERRUPTED": "Send the message again.",
    "SESSION_REQUIRED": "Unset AIWS_API_KEY and sign in: aiws login",
    "BUDGET_EXHAUSTED": "aiws limits shows all budgets that apply. Owners, admins and billing members change them.",
    "DOCUMENT_NOT_FAILED": "aiws documents show ID shows its state; aiws documents reindex ID reads it again.",
    "DOCUMENT_NOT_READ": "Wait until it is read: aiws documents wait ID",
    "DOCUMENT_QUOTA": "Delete documents, or ask the server's operator for more room.",
    "API_KEY_ENDED": "Create another one: aiws api-keys create",
}
_NEXT_BY_CLASS: dict[type[AiWorkspaceError], str] = {
    errors.UnauthenticatedError: "Sign in with: aiws login",
    errors.NotFoundError: "These list what exists: aiws orgs list, aiws workspaces list, aiws conversations list",
    errors.UnavailableError: "Is the server running, and is its address right? --server or AIWS_SERVER sets it.",
    errors.DeadlineExceededError: "The call may have taken effect. Check before you retry.",
    errors.PermissionDeniedError: "Ask an owner or admin of the organization: aiws orgs members",
}


def report(error: AiWorkspaceError, server: str, *, with_key: bool) -> int:
    """Explain the error on stderr and return the exit code."""
    output.say(f"error: {_what(error, server, with_key)}", "bold red")
    # The message has the first violation.
    for violation in error.field_violations[1:]:
        output.say(f"  {violation.field}: {violation.description}")
    if following := _next(error, with_key):
        output.say(following)
    if isinstance(error, errors.InternalError) and error.request_id:
        output.say(f"Please report it with this id: {error.request_id}")
    return _exit_code(error)


def _what(error: AiWorkspaceError, server: str, with_key: bool) -> str:
    if isinstance(error, errors.UnavailableError) and not error.reason:
        return f"{server} cannot be reached ({error.message})"
    if isinstance(error, errors.UnauthenticatedError) and error.reason != "PASSWORD_WRONG":
        return f"{_KEY_REFUSED if with_key else 'you are not signed in'} at {server}."
    return error.message


def _next(error: AiWorkspaceError, with_key: bool) -> str:
    if error.retry_after and error.reason != "BUDGET_EXHAUSTED":  # its message says when, and that may be weeks
        return f"Try again in {error.retry_after:.0f} seconds."
    if with_key and isinstance(error, errors.UnauthenticatedError):
        return "It is incomplete, expired or revoked. Unset AIWS_API_KEY and sign in to list the keys."
    return _NEXT_BY_REASON.get(error.reason) or _NEXT_BY_CLASS.get(type(error), "")


def _exit_code(error: AiWorkspaceError) -> int:
    if isinstance(error, errors.UnauthenticatedError):
        return NOT_SIGNED_IN
    if isinstance(error, errors.UnavailableError | errors.DeadlineExceededError):
        return UNREACHABLE
    return REFUSED
