"""What can go wrong, as a person reads it: one line that says what, and one that says what to type next."""

from __future__ import annotations


def is_interrupted(error: BaseException | None) -> bool:
    """Whether this is Ctrl-C, or came up while it was handled: a connection cut short may fail on its way out."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


class DlqctlError(Exception):
    """Something is wrong that the user can mend.

    `message` says what is wrong, `hint` what to type next. The command line prints both and exits
    with `exit_code`: 1 the answer is no, 2 usage, 3 cannot connect.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(DlqctlError):
    """The command's words do not fit together."""

    exit_code = 2


class CannotConnect(DlqctlError):
    """There is no database to talk to."""

    exit_code = 3
