"""Whether a schema breaks a reader of what was last released, told in words.

Two readers count. The old one reads what is written from now on: it must find what it was promised
and nothing that it refuses. The new one reads what was written before, for the log is long: it must
ask for nothing that was not there. A newer `schema_version` turns the old reader away in words, so
it allows what breaks only the old reader; nothing allows what breaks the new one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from millstream.schemas.documents.contract import Json, admits_null, always_written

Reader = Literal["old", "new"]

_VERSION = "schema_version"
_DEFS = "#/$defs/"

_UPPER = ("maxLength", "maximum", "exclusiveMaximum", "maxItems", "maxProperties")
_LOWER = ("minLength", "minimum", "exclusiveMinimum", "minItems", "minProperties")


@dataclass(frozen=True, slots=True)
class Break:
    """One thing that a reader trips over: where it stands, what it is, and whose reader it breaks.

    The `old` reader was built against the release and reads new records; the `new` one is built
    from this checkout and reads old records.
    """

    where: str
    what: str
    reader: Reader

    def __str__(self) -> str:
        """Give the break as one line."""
        return f"{self.where}: {self.what} (breaks the {self.reader} reader)"


def event_breaks(released: dict[str, Json], current: dict[str, Json]) -> list[Break]:
    """Compare all events' schemas by name; a newer version excuses what breaks the old reader."""
    found: list[Break] = []
    for name, old in released.items():
        new = current.get(name)
        if new is None:
            found.append(Break(name, "the event is gone, and its records are still read", "new"))
            continue
        newer = _version(new) > _version(old)
        found += [
            problem
            for problem in schema_breaks(old, new, name)
            if not (newer and problem.reader == "old")
        ]
    return found


def schema_breaks(old: Json, new: Json, where: str) -> list[Break]:
    """Compare two versions of one event's schema."""
    return list(_Comparison(old, new).node(old, new, where))


def channel_breaks(released: Json, current: Json) -> list[Break]:
    """Compare two AsyncAPI documents: channels, where they are, what is on them, and its key."""
    found: list[Break] = []
    for name, old in released["channels"].items():
        new = current["channels"].get(name)
        where = f"channel {name}"
        if new is None:
            found.append(Break(where, "it is gone", "old"))
            continue
        if new["address"] != old["address"]:
            moved = f"it moved from {old['address']} to {new['address']}"
            found.append(Break(where, moved, "old"))
        if set(new["messages"]) != set(old["messages"]):
            carried = f"it carries {_listed(new['messages'])} instead of {_listed(old['messages'])}"
            found.append(Break(where, carried, "old"))
        for message in set(new["messages"]) & set(old["messages"]):
            keys = [_key_of(document, message) for document in (released, current)]
            if keys[0] != keys[1]:
                rekeyed = f"{message} is keyed by {keys[1]!r} instead of {keys[0]!r}"
                found.append(Break(where, rekeyed, "old"))
    return found


class _Comparison:
    """Walks two schemas side by side, each with its own definitions."""

    def __init__(self, old_root: Json, new_root: Json) -> None:
        self._old_root = old_root
        self._new_root = new_root

    def node(self, old: Json, new: Json, where: str) -> Iterator[Break]:
        """Compare two schemas of the same thing, null left aside: it is never written."""
        old, new = _resolved(old, self._old_root), _resolved(new, self._new_root)
        kinds = _kinds(old, self._old_root), _kinds(new, self._new_root)
        if kinds[0] != kinds[1]:
            what = f"its type changed from {_listed(kinds[0])} to {_listed(kinds[1])}"
            yield Break(where, what, "old")
            yield Break(where, what, "new")
            return
        yield from _values(old, new, where)
        yield from _bounds(old, new, where)
        yield from self._properties(old, new, where)
        yield from self._inside(old, new, where)

    def _properties(self, old: Json, new: Json, where: str) -> Iterator[Break]:
        before, after = old.get("properties", {}), new.get("properties", {})
        promised = always_written(old)
        written = always_written(new)
        for name, schema in before.items():
            at = f"{where}.{name}"
            if name in promised - written:
                fate = "may now be missing" if name in after else "is gone"
                yield Break(at, f"it was in every record and {fate}", "old")
            if name not in after:
                continue
            if name in _required(new) - _required(old):
                yield Break(at, "it was optional and is now required", "new")
            given = name in _required(old) | _required(new) | {_VERSION}
            if not given and _default(schema) != self._default_as_before(schema, after[name]):
                yield Break(at, "its default changed, so records without it change", "new")
            yield from self.node(schema, after[name], at)
        for name in _required(new) - set(before):
            yield Break(
                f"{where}.{name}", "it is new and required, and no old record has it", "new"
            )

    def _default_as_before(self, old: Json, new: Json) -> object:
        """Give the new default, without what an object's new fields have by default anyway."""
        before, after = _default(old), _default(new)
        if not (isinstance(before, dict) and isinstance(after, dict)):
            return after
        fields = _resolved(new, self._new_root).get("properties", {})
        return {
            name: value
            for name, value in after.items()
            if name in before or value != _default(fields.get(name, {}))
        }

    def _inside(self, old: Json, new: Json, where: str) -> Iterator[Break]:
        """Compare what arrays and maps hold."""
        for keyword in ("items", "additionalProperties"):
            before, after = old.get(keyword), new.get(keyword)
            if isinstance(before, dict) and isinstance(after, dict):
                yield from self._element(before, after, f"{where}[]")
            elif before != after:
                yield from _both(where, f"what it may hold changed ({keyword})")
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(before) != len(after):
            yield from _both(where, f"it has {len(after)} places instead of {len(before)}")
        for index, (left, right) in enumerate(zip(before, after, strict=False)):
            yield from self._element(left, right, f"{where}[{index}]")

    def _element(self, old: Json, new: Json, where: str) -> Iterator[Break]:
        """Compare elements: unlike properties, their nulls are written."""
        if admits_null(new) and not admits_null(old):
            yield Break(where, "it may now be null", "old")
        if admits_null(old) and not admits_null(new):
            yield Break(where, "it may no longer be null", "new")
        yield from self.node(old, new, where)


def _values(old: Json, new: Json, where: str) -> Iterator[Break]:
    """Compare enumerated values, where either side has them."""
    before, after = _enumerated(old), _enumerated(new)
    if before is None and after is None:
        return
    if before is None or after is None:
        # A closed set that opens lets the writer say more; one that closes lets the reader less.
        opened = after is None
        what = (
            "any value is allowed now" if opened else f"only {_listed(after or ())} is allowed now"
        )
        yield Break(where, what, "old" if opened else "new")
        return
    if after - before:
        yield Break(where, f"it may now be {_listed(after - before)}", "old")
    if before - after:
        yield Break(where, f"it may no longer be {_listed(before - after)}", "new")


def _bounds(old: Json, new: Json, where: str) -> Iterator[Break]:
    """Compare bounds: a wider one lets the writer say more, a tighter one the reader less."""
    for keyword in (*_UPPER, *_LOWER):
        before, after = old.get(keyword), new.get(keyword)
        if before == after:
            continue
        grew = after is not None and (before is None or after > before)
        tighter = before is None or (after is not None and grew == (keyword in _LOWER))
        what = f"{keyword} changed from {_bound(before)} to {_bound(after)}"
        yield Break(where, what, "new" if tighter else "old")
    if old.get("pattern") != new.get("pattern"):
        changed = f"pattern changed from {_bound(old.get('pattern'))} to "
        yield from _both(where, changed + _bound(new.get("pattern")))


def _both(where: str, what: str) -> tuple[Break, Break]:
    return Break(where, what, "old"), Break(where, what, "new")


def _resolved(schema: Json, root: Json) -> Json:
    """Follow a reference, and give the one choice beside null; a real union stays as it is."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if len(choices) == 1:
        schema = choices[0]
    reference = schema.get("$ref")
    if isinstance(reference, str):
        resolved: Json = root["$defs"][reference.removeprefix(_DEFS)]
        return resolved
    return schema


def _kinds(schema: Json, root: Json) -> frozenset[str]:
    """Give the JSON types that a schema allows, null left aside."""
    if "anyOf" in schema:
        return frozenset().union(
            *(_kinds(_resolved(choice, root), root) for choice in schema["anyOf"])
        ) - {"null"}
    return frozenset({schema["type"]}) if "type" in schema else frozenset({"anything"})


def _enumerated(schema: Json) -> frozenset[Any] | None:
    if "const" in schema:
        return frozenset({schema["const"]})
    return frozenset(schema["enum"]) if "enum" in schema else None


def _default(schema: Json) -> object:
    # Null and none given are the same: both leave the property out.
    return schema.get("default")


def _required(schema: Json) -> set[str]:
    return set(schema.get("required", ()))


def _version(schema: Json) -> int:
    return int(schema["properties"][_VERSION]["default"])


def _key_of(document: Json, message: str) -> str:
    key = document["components"]["messages"][message]["bindings"]["kafka"]["key"]
    return str(key["description"])


def _listed(values: Any) -> str:
    return ", ".join(sorted(str(value) for value in values)) or "nothing"


def _bound(value: object) -> str:
    return "none" if value is None else str(value)
