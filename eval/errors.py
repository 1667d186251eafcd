"""The error of `eval` that ends as one line for the user. `exit_code` is the process exit code."""


class EvaluationError(Exception):
    """A problem the user can mend. The message is one line: what, where, remedy."""

    def __init__(self, message: str, exit_code: int) -> None:
        """`exit_code`: 2 usage, 3 data, 4 hub or network, 6 non-finite numbers, 7 disk or memory."""
        self.exit_code = exit_code
        super().__init__(message)

    def __reduce__(self) -> tuple[type["EvaluationError"], tuple[str, int]]:
        """Carry the code from a worker process."""
        return (type(self), (str(self), self.exit_code))
