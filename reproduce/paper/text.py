"""Strings from files, made fit to show: names of runs and recipes are other people's input."""

LIMIT = 96


def clean(text: object, limit: int = LIMIT) -> str:
    r"""Control codes as \xNN, and no longer than `limit` characters."""
    shown = str(text)[: 4 * limit]
    safe = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"
