"""The one exception that a user is meant to see."""


class UserError(Exception):
    """One line for the user: what is wrong (file, field, value) and the remedy. A stage prints it and exits with 2."""
