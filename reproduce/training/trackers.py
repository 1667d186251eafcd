"""Experiment trackers (tensorboard, wandb, trackio ...) through accelerate, on request.

The run folder is the truth; a tracker that fails is named once and left behind, never the run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reproduce.errors import UserError, one_line


class Trackers:
    """The trackers of one run; only the rank that leads has any."""

    def __init__(
        self, names: Sequence[str], folder: Path, settings: Mapping[str, Any], warn: Callable[[str], None]
    ) -> None:
        """Start each tracker.

        Args:
            names: as accelerate knows them.
            folder: the run folder; local trackers write below its `trackers/`.
            settings: the resolved recipe.
            warn: told of a tracker that fails.

        Raises:
            UserError: a name that accelerate does not know.
        """
        self._warn = warn
        self._trackers: dict[str, Any] = {}
        if not names:
            return
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        for name in dict.fromkeys(names):
            if name not in LOGGER_TYPE_TO_CLASS:
                known = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
                raise UserError(f"--track {name}: no such tracker; accelerate knows {known}")
            make = LOGGER_TYPE_TO_CLASS[name]
            self._call(name, partial(self._start, name, make, folder, settings))

    def log(self, line: Mapping[str, Any]) -> None:
        """Hand a line of metrics.jsonl on."""
        values = dict(_flat({key: value for key, value in line.items() if key not in ("kind", "step")}))
        prefixed = {f"{line['kind']}/{key}": value for key, value in values.items()}
        for name, tracker in list(self._trackers.items()):
            self._call(name, partial(tracker.log, prefixed, step=line["step"]))

    def finish(self) -> None:
        """Close them."""
        for name, tracker in list(self._trackers.items()):
            self._call(name, tracker.finish)
        self._trackers = {}

    def _start(self, name: str, make: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        run = "-".join(folder.parts[-2:])
        if make.requires_logging_directory:
            tracker = make(run, logging_dir=str(folder / "trackers"))
        else:
            tracker = make(run)
        start = getattr(tracker, "start", None)  # since accelerate 1.11 apart from the constructor
        if start is not None:
            start()
        self._trackers[name] = tracker
        tracker.store_init_configuration(dict(_flat(settings)))

    def _call(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a foreign service must not end a run, whatever it raises
            self._trackers.pop(name, None)
            why = one_line(f"{type(error).__name__}: {error}", 600)
            self._warn(
                f"tracker {name} failed and is left out from here on ({why}); metrics.jsonl has it all"
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested values under dotted names, without what is unknown."""
    flat: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat.append((f"{prefix}{key}", value))
    return flat
