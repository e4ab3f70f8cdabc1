"""Expected against got, field by field, as a person reads it."""

from collections.abc import Mapping

SHORT = 60  # characters of a value that are shown


class Anything:
    """Compares equal to whatever was got: a field that is not looked at."""

    def __repr__(self) -> str:
        return "(any)"


ANY = Anything()


def matches(expected: object, got: object) -> bool:
    """Whether a field is as expected: ANY, a predicate, a set or range of allowed values, or the value itself."""
    if expected is ANY:
        return True
    if callable(expected):
        return bool(expected(got))
    if isinstance(expected, (set, frozenset, range)):
        return got in expected
    return expected == got


def difference(expected: Mapping[str, object], got: Mapping[str, object] | None) -> str | None:
    """A table of every expected field with the wrong ones marked; None if all match. got None: nothing came."""
    wrong = [
        name for name, value in expected.items() if got is None or name not in got or not matches(value, got[name])
    ]
    if not wrong:
        return None
    rows = [("", "expected", "got", "")]
    for name, value in expected.items():
        shown = "(nothing)" if got is None else _show(got.get(name, "(absent)"))
        rows.append((name, _show(value), shown, "<-- differs" if name in wrong else ""))
    for name in got or {}:
        if name not in expected:
            rows.append((name, "", _show((got or {})[name]), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows
    )


def _show(value: object) -> str:
    if callable(value):
        text = str(getattr(value, "__doc__", None) or getattr(value, "__name__", repr(value)))
    elif isinstance(value, bytes):
        text = f"{len(value)} bytes {value[:20]!r}" if len(value) > 20 else repr(value)
    else:
        text = str(value)
    return text if len(text) <= SHORT else text[: SHORT - 1] + "…"
