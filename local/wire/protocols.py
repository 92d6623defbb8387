"""The protocols of AWS's services: which operation a request means, and where the members of its two sides are."""

import io
import json
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.etree import ElementTree

from shapes import CborReader, FormReader, JsonReader, Reader, XmlReader, words


CBOR = "smithy-rpc-v2-cbor"


class Broken(Exception):
    """The call cannot be read at all."""


def protocol_of(model, call):
    """The protocol by its signs in the headers; a service may offer several."""
    headers = call["headers"]
    if "smithy-protocol" in headers:
        protocol = headers["smithy-protocol"].replace("rpc-v2", "smithy-rpc-v2")
    elif "x-amz-target" in headers:
        protocol = "json"
    elif headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        protocol = "query"
    else:
        protocol = "rest-json"
    if protocol not in model.metadata.get("protocols", [model.metadata["protocol"]]):
        raise Broken(f"the service does not speak {protocol}")
    return protocol


def operation_of(model, call):
    protocol = protocol_of(model, call)
    headers = call["headers"]
    kind = headers.get("content-type", "").split(";")[0]
    if protocol == "query":
        wanted, name = kind, form(call).get("Action")
    elif protocol == "json":
        wanted = f"application/x-amz-json-{model.metadata['jsonVersion']}"
        prefix, _, name = headers.get("x-amz-target", "").partition(".")
        if prefix != model.metadata["targetPrefix"]:
            raise Broken(f"X-Amz-Target is {headers.get('x-amz-target')}")
    elif protocol == CBOR:
        wanted, name = "application/cbor", call["uri"].rpartition("/")[2]
        if call["uri"] != f"/service/{model.metadata['targetPrefix']}/operation/{name}":
            raise Broken("the URI is not that of the protocol")
    else:
        return rest_operation(model, call)
    if kind != wanted:
        raise Broken(f"the content type is {kind}, not {wanted}")
    if name not in model.operations:
        raise Broken(f"the service has no operation {name}")
    return model.operations[name]


def rest_operation(model, call):
    path = path_of(call)
    # A template with fewer labels is the better one.
    found = [
        one
        for one in model.operations.values()
        if one["http"]["method"] == call["method"] and words(template(one)).fullmatch(path)
    ]
    if not found:
        raise Broken("no operation has this method and path")
    return min(found, key=lambda one: one["http"]["requestUri"].count("{"))


def template(operation):
    return operation["http"]["requestUri"].split("?")[0].rstrip("/")


def path_of(call):
    path = urlsplit(call["uri"]).path.rstrip("/")
    # The stage of a WebSocket API stands before the path of the model.
    at = path.find("/@connections/")
    return path[at:] if at > 0 else path


def form(call):
    return dict(parse_qsl(call["body"].decode(), keep_blank_values=True, strict_parsing=True))


def tree(pairs):
    root = {}
    for name, value in pairs.items():
        *above, last = name.split(".")
        place = root
        for step in above:
            inner = place.get(step)
            place[step] = inner if isinstance(inner, dict) else {}
            place = place[step]
        place[last] = value
    return root


def request_of(model, operation, call, problems):
    """The request's members by their names in the model."""
    protocol = protocol_of(model, call)
    shape = model.shape(operation["input"]) if "input" in operation else {"type": "structure", "members": {}}
    if protocol == "query":
        pairs = form(call)
        del pairs["Action"]
        if pairs.pop("Version", None) != model.metadata["apiVersion"]:
            problems.append(f"Version is not {model.metadata['apiVersion']}")
        return FormReader(model, problems).read_structure(shape, tree(pairs), "")
    if protocol == "json":
        return JsonReader(model, problems).read_structure(shape, json.loads(call["body"] or b"{}"), "")
    if protocol == CBOR:
        return CborReader(model, problems).read_structure(shape, cbor(call["body"]), "")
    return rest(model, shape, call["headers"], call["body"], problems, call, operation)


def response_of(model, operation, call, problems):
    """The answer's members by their names in the model."""
    protocol = protocol_of(model, call)
    body = call["response_body"]
    shape = model.shape(operation["output"]) if "output" in operation else {"type": "structure", "members": {}}
    if protocol == "query":
        result = document(body)
        if result.tag != f"{operation['name']}Response":
            raise Broken(f"the answer is a {result.tag}")
        wrapper = operation.get("output", {}).get("resultWrapper")
        inner = result.find(wrapper) if wrapper else None
        if wrapper and inner is None:
            raise Broken(f"the answer has no {wrapper}")
        further = {child.tag for child in result} - {wrapper, "ResponseMetadata"}
        if further:
            problems.append(f"the answer has {sorted(further)}")
        return {} if inner is None else XmlReader(model, problems).read_structure(shape, inner, "answer")
    if protocol == "json":
        return JsonReader(model, problems).read_structure(shape, json.loads(body or b"{}"), "answer")
    if protocol == CBOR:
        return CborReader(model, problems).read_structure(shape, cbor(body) if body else {}, "answer")
    expected = operation["http"].get("responseCode", 200)
    if call["status"] != expected and not any(one.get("location") == "statusCode" for one in shape["members"].values()):
        problems.append(f"the status is {call['status']}, not {expected}")
    return rest(model, shape, call["response_headers"], body, problems, None, operation)


def rest(model, shape, headers, body, problems, call, operation):
    """A side of a call whose members are in the path, the query, headers and the body. An answer has no `call`."""
    at = "" if call else "answer"
    scalars, found = Reader(model, problems), {}
    query = dict(parse_qsl(urlsplit(call["uri"]).query, keep_blank_values=True)) if call else {}
    labels = words(template(operation)).fullmatch(path_of(call)).groupdict() if call else {}
    for name, one in shape["members"].items():
        wire, place = one.get("locationName", name), one.get("location")
        places = {"uri": labels, "querystring": query, "header": {key.lower(): value for key, value in headers.items()}}
        raw = places.get(place, {}).pop(wire.lower() if place == "header" else wire, None)
        if raw is not None:
            found[name] = scalars.read(one, unquote(raw) if place == "uri" else raw, name)
    if query:
        problems.append(f"the query has {sorted(query)}")
    in_body = [name for name, one in shape["members"].items() if "location" not in one]
    payload = shape.get("payload")
    if payload and model.shape(shape["members"][payload])["type"] == "blob":
        if body:
            found[payload] = scalars.read(shape["members"][payload], body, payload)
    elif payload:
        found[payload] = JsonReader(model, problems).read(shape["members"][payload], json.loads(body or b"{}"), payload)
    elif in_body or body:
        try:
            content = json.loads(body or b"{}")
        except ValueError:
            raise Broken(f"{body[:60]!r} is no JSON") from None
        found |= JsonReader(model, problems).read_structure(shape, content, at, only=in_body)
    for name in shape.get("required", []):
        located = shape["members"][name].get("location")
        if name not in found and (located or name == payload) and located != "statusCode":
            problems.append(f"{name} is missing")
    return found


def document(body):
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        raise Broken(f"{body[:60]!r} is no XML") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def cbor(body):
    from botocore.parsers import RpcV2CBORParser

    return RpcV2CBORParser().parse_data_item(io.BufferedReader(io.BytesIO(body)))


def error_of(model, call):
    """The code of an error, if the answer has one."""
    protocol, body = protocol_of(model, call), call["response_body"]
    try:
        if protocol == "query":
            return document(body).findtext("Error/Code")
        content = cbor(body) if protocol == CBOR else json.loads(body or b"{}")
    except (Broken, ValueError):
        return None
    code = call["response_headers"].get("x-amzn-errortype") or content.get("__type") or content.get("code")
    return code and code.split(":")[0].rpartition("#")[2]
