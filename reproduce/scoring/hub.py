"""The dataset hub as `eval.task_data` asks for it, by the client that `prep` uses: watched and checked."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from data_prep import hub
from data_prep.errors import RevisionError, UserError
from eval.errors import EvaluationError
from eval.task_folders import HubFile

T = TypeVar("T")

REMEDY = "run the same `reweight eval` again later: scores that are there stay"


class ClientHub:
    """The hub that HF_ENDPOINT, HF_HOME and HF_TOKEN name."""

    @property
    def offline(self) -> bool:
        """Whether HF_HUB_OFFLINE is set."""
        from data_prep import hub_client

        return hub_client.offline()

    def resolve_commit(self, repository: str, revision: str) -> str | None:
        """The commit of a revision; None where there is no such revision."""

        def commit() -> str | None:
            try:
                return hub.resolve_commit(repository, revision, REMEDY)
            except RevisionError:
                return None

        return _asked(commit)

    def list_files(self, repository: str, commit: str) -> Sequence[HubFile]:
        """Every file of a commit."""
        return [_file(each) for each in _asked(lambda: hub.list_files(repository, commit, None, REMEDY))]

    def held(self, repository: str, commit: str) -> Sequence[HubFile]:
        """The files that the client's cache holds of it."""
        return [_file(each) for each in _asked(lambda: hub.held_files(repository, commit))]

    def download(self, repository: str, commit: str, file: HubFile) -> Path:
        """A file in the client's cache, checked."""
        return _asked(
            lambda: hub.download(
                repository, "dataset", commit, file.path, REMEDY, sha256=file.sha256, size=file.bytes
            )
        )


def _file(file: hub.HubFile) -> HubFile:
    return HubFile(path=file.path, bytes=file.bytes, sha256=file.sha256)


def _asked(action: Callable[[], T]) -> T:
    try:
        return action()
    except UserError as error:
        raise EvaluationError(str(error), error.exit_code) from None
