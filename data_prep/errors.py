"""Errors that end as one line for the user: what went wrong, where, and what to do.

`exit_code` is the process exit code; reproduce/errors.py lists them all.
"""


class UserError(Exception):
    """A problem the user can mend. The message is one line: what, where, remedy."""

    exit_code = 2


class DataError(UserError):
    """Data is missing, corrupt, or not what it claims to be."""

    exit_code = 3


class HubError(UserError):
    """The dataset hub or the network refused, failed, or is switched off."""

    exit_code = 4


class RevisionError(HubError):
    """The repository is there, and the revision is not."""


class ResumeError(UserError):
    """Work already in the folder belongs to something else; continuing would mix the two."""

    exit_code = 5


class StorageError(UserError):
    """Disk, memory, permission or lock."""

    exit_code = 7
