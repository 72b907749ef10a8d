"""The one exception that a user is meant to see, and what led to an exception."""

from collections.abc import Iterator


class UserError(Exception):
    """One line for the user: what is wrong (file, field, value) and the remedy. A stage prints it and exits with 2."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, then the one that caused it, and so on; each once."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
