"""botocore's service models, and values against their shapes.

A reader takes a value in the form of one protocol, checks it, and returns it under the names of the model. Patterns and
enumerations are checked in both directions, since neither the functions nor the stand-ins may lean on a value that AWS
does not document.
"""

import base64
import binascii
import re
from datetime import datetime

import regex  # `\p{L}` and the like, which Python's own module lacks


class Model:
    def __init__(self, document):
        self.metadata = document["metadata"]
        self.operations = document["operations"]
        self.shapes = document["shapes"]
        self.patterns = {}

    def shape(self, reference):
        return self.shapes[reference["shape"]]

    def error(self, operation, code):
        """The shape of an error that the operation may return, by its code."""
        for reference in operation.get("errors", []):
            shape = self.shape(reference)
            if code in (reference["shape"], shape.get("error", {}).get("code")):
                return shape
        return None

    def matches(self, pattern, text):
        if pattern not in self.patterns:
            # Java's and ECMAScript's names of classes are also those of `regex`.
            self.patterns[pattern] = regex.compile(pattern)
        return self.patterns[pattern].fullmatch(text) is not None


class Reader:
    """A value of a protocol in which scalars are texts; JSON and CBOR differ in what is overridden below."""

    def __init__(self, model, problems):
        self.model = model
        self.problems = problems

    def problem(self, path, what):
        self.problems.append(f"{path or 'the body'}: {what}")

    def read(self, reference, raw, path=""):
        shape = self.model.shape(reference)
        return getattr(self, f"read_{shape['type']}", self.read_number)(shape, raw, path, reference)

    def read_structure(self, shape, raw, path, _=None, only=None):
        """`only`: the members that are in the body, if others are in the URI or in headers."""
        if shape.get("document"):
            return raw
        members = {name: one for name, one in shape["members"].items() if only is None or name in only}
        by_wire = {self.wire_name(name, one): name for name, one in members.items()}
        found = {}
        for wire, inner in self.entries(shape, raw, path):
            name = by_wire.get(wire)
            if name is None:
                self.problem(path, f"{wire} is no member")
            elif inner is not None:
                found[name] = self.read(members[name], inner, f"{path}.{name}" if path else name)
        for name in shape.get("required", []):
            if name not in found and name in members:
                self.problem(path, f"{name} is missing")
        if shape.get("union") and len(found) != 1:
            self.problem(path, f"one member is wanted, not {sorted(found)}")
        return found

    def wire_name(self, name, reference):
        inner = self.model.shape(reference)
        if inner["type"] == "list" and self.is_flattened(inner):
            return inner["member"].get("locationName") or reference.get("locationName", name)
        return reference.get("locationName", name)

    def is_flattened(self, shape):
        return shape.get("flattened", False)

    def read_list(self, shape, raw, path, _):
        values = [self.read(shape["member"], one, f"{path}[]") for one in self.elements(shape, raw, path)]
        self.limits(shape, len(values), path, "elements")
        return values

    def read_map(self, shape, raw, path, _):
        pairs = list(self.pairs(shape, raw, path))
        self.limits(shape, len(pairs), path, "entries")
        return {
            self.read(shape["key"], name, f"{path} key"): self.read(shape["value"], inner, f"{path}.{name}")
            for name, inner in pairs
            if inner is not None
        }

    def read_string(self, shape, raw, path, _):
        if not isinstance(raw, str):
            self.problem(path, f"{raw!r} is no text")
            return raw
        self.limits(shape, len(raw), path, "characters")
        if "enum" in shape and raw not in shape["enum"]:
            self.problem(path, f"{raw!r} is none of {shape['enum']}")
        if "pattern" in shape and not self.model.matches(shape["pattern"], raw):
            self.problem(path, f"{raw[:200]!r} does not match {shape['pattern']}")
        return raw

    def read_blob(self, shape, raw, path, _):
        try:
            raw = raw if isinstance(raw, bytes) else base64.b64decode(raw, validate=True)
        except (binascii.Error, ValueError):
            self.problem(path, f"{raw[:40]!r} is not base64")
            raw = b""
        self.limits(shape, len(raw), path, "bytes")
        return raw.decode(errors="replace")

    def read_number(self, shape, raw, path, _):
        try:
            number = float(raw) if shape["type"] in ("float", "double") else int(raw)
        except (TypeError, ValueError):
            self.problem(path, f"{raw!r} is no {shape['type']}")
            return raw
        self.limits(shape, number, path, "")
        return number

    def read_boolean(self, _, raw, path, __):
        if raw not in ("true", "false"):
            self.problem(path, f"{raw!r} is no boolean")
        return raw == "true"

    def read_timestamp(self, shape, raw, path, reference):
        try:
            datetime.fromisoformat(raw.replace("Z", "+00:00"))
        except ValueError:
            self.problem(path, f"{raw!r} is no time in ISO 8601")
        return raw

    def limits(self, shape, size, path, unit):
        if size < shape.get("min", size) or size > shape.get("max", size):
            limits = f"{shape.get('min', '')} to {shape.get('max', '')}"
            self.problem(path, f"{size} {unit} are outside of {limits}".replace("  ", " "))


class XmlReader(Reader):
    """An element of an XML document. A structure's flattened lists are its own children."""

    def entries(self, shape, raw, path):
        flattened = {}
        for name, one in shape["members"].items():
            if self.is_flattened(self.model.shape(one)):
                flattened[self.wire_name(name, one)] = []
        seen = set()
        for child in raw:
            if child.tag in flattened:
                flattened[child.tag].append(child)
                continue
            if child.tag in seen:
                self.problem(path, f"{child.tag} is there twice")
            seen.add(child.tag)
            yield child.tag, child
        if raw.text and raw.text.strip():
            self.problem(path, f"{raw.text.strip()[:40]!r} is a text where members are wanted")
        yield from ((name, found) for name, found in flattened.items() if found)

    def elements(self, shape, raw, path):
        if self.is_flattened(shape):
            return raw
        wanted = shape["member"].get("locationName", "member")
        for child in raw:
            if child.tag != wanted:
                self.problem(path, f"an element of the list is a {child.tag}, not a {wanted}")
        return list(raw)

    def pairs(self, shape, raw, path):
        key, value = shape["key"].get("locationName", "key"), shape["value"].get("locationName", "value")
        return [(entry.find(key), entry.find(value)) for entry in raw]

    def read(self, reference, raw, path=""):
        if self.model.shape(reference)["type"] not in ("structure", "list", "map"):
            if len(raw):
                self.problem(path, "members are there where a text is wanted")
            raw = raw.text or ""
        return super().read(reference, raw, path)


class FormReader(Reader):
    """A tree of a form's names, which dots separate."""

    def entries(self, shape, raw, path):
        if not isinstance(raw, dict):
            if raw != "":
                self.problem(path, f"{raw!r} is there where members are wanted")
            return []
        return raw.items()

    def numbered(self, raw, path):
        if raw == "":
            return []
        if not isinstance(raw, dict) or sorted(raw, key=lambda name: (len(name), name)) != [
            str(number + 1) for number in range(len(raw))
        ]:
            self.problem(path, f"the positions of the list are not 1 to {len(raw)}")
            return []
        return [raw[str(number + 1)] for number in range(len(raw))]

    def under(self, raw, name, path):
        if raw == "":
            return ""
        if not isinstance(raw, dict) or set(raw) != {name}:
            self.problem(path, f"the list's elements are not below {name}")
            return ""
        return raw[name]

    def elements(self, shape, raw, path):
        if not self.is_flattened(shape):
            raw = self.under(raw, shape["member"].get("locationName", "member"), path)
        return self.numbered(raw, path)

    def pairs(self, shape, raw, path):
        key, value = shape["key"].get("locationName", "key"), shape["value"].get("locationName", "value")
        if not self.is_flattened(shape):
            raw = self.under(raw, "entry", path)
        return [(entry.get(key, ""), entry.get(value)) for entry in self.numbered(raw, path)]


class JsonReader(Reader):
    def is_flattened(self, _):
        return False

    def entries(self, shape, raw, path):
        if not isinstance(raw, dict):
            self.problem(path, f"{str(raw)[:40]!r} is no object")
            return []
        return raw.items()

    def elements(self, shape, raw, path):
        if not isinstance(raw, list):
            self.problem(path, f"{str(raw)[:40]!r} is no list")
            return []
        return raw

    def pairs(self, shape, raw, path):
        return self.entries(shape, raw, path)

    def read_number(self, shape, raw, path, reference):
        kinds = (int, float) if shape["type"] in ("float", "double") else int
        if isinstance(raw, bool) or not isinstance(raw, kinds):
            self.problem(path, f"{raw!r} is no {shape['type']}")
            return raw
        return super().read_number(shape, raw, path, reference)

    def read_boolean(self, _, raw, path, __):
        if not isinstance(raw, bool):
            self.problem(path, f"{raw!r} is no boolean")
        return raw

    def read_timestamp(self, shape, raw, path, reference):
        kind = reference.get("timestampFormat") or shape.get("timestampFormat") or "unixTimestamp"
        if kind == "iso8601":
            return super().read_timestamp(shape, raw, path, reference)
        if isinstance(raw, bool) or not isinstance(raw, (int, float)):
            self.problem(path, f"{raw!r} is no time in seconds")
        return raw


class CborReader(JsonReader):
    def wire_name(self, name, _):
        return name

    def read_timestamp(self, _, raw, path, __):
        if not isinstance(raw, datetime):
            self.problem(path, f"{raw!r} is no time")
            return raw
        return raw.isoformat()

    def read_blob(self, shape, raw, path, reference):
        if not isinstance(raw, bytes):
            self.problem(path, f"{raw!r} is no byte string")
            raw = b""
        return super().read_blob(shape, raw, path, reference)


def words(template):
    """A URI template as a pattern whose groups are its labels."""
    pieces = re.split(r"\{(\w+)(\+?)\}", template)
    pattern = re.escape(pieces[0])
    for name, is_greedy, text in zip(pieces[1::3], pieces[2::3], pieces[3::3]):
        pattern += f"(?P<{name}>{'.+' if is_greedy else '[^/]+'})" + re.escape(text)
    return re.compile(pattern)
