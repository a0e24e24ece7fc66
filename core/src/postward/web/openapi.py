"""The description of the JSON twins (OpenAPI 3.1), made from the pages themselves."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec

from postward.web.page import View
from postward.web.params import Kind, Param
from postward.web.places import Place

_REF: Final = "#/components/schemas/{name}"
_REFUSALS: Final = {
    "400": "The question is wrong; the text says how.",
    "401": "Nobody is logged in.",
    "403": "Not from this machine.",
    "404": "There is no such thing.",
    "405": "Only GET and HEAD.",
    "429": "Too many wrong passwords.",
    "500": "The page failed; the log says more under the cid.",
    "503": "The database cannot be read just now.",
}
_PATTERNS: Final = {Kind.DAY: r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", Kind.CURSOR: r"^[0-9A-Za-z._~:/\[\]\-]{1,400}$"}


def describe(places: Sequence[Place]) -> dict[str, Any]:
    """The description of all pages among `places`."""
    views = [place for place in places if isinstance(place.what, View)]
    types = list(dict.fromkeys(place.what.data for place in views if isinstance(place.what, View)))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    by_type = dict(zip(types, schemas, strict=True))
    components["Error"] = {
        "type": "object",
        "required": ["error", "status"],
        "properties": {"error": {"type": "string"}, "status": {"type": "integer"}, "cid": {"type": "string"}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Postward", "version": version("postward"), "description": "What the pages show, as JSON."},
        "paths": {place.twin: {"get": _get(place, by_type)} for place in views},
        "components": {"schemas": components, "securitySchemes": {"basic": {"type": "http", "scheme": "basic"}}},
        "security": [{}, {"basic": []}],
    }


def _get(place: Place, by_type: dict[type, Any]) -> dict[str, Any]:
    assert isinstance(place.what, View)
    answer = {
        "type": "object",
        "required": ["data", "next"],
        "properties": {
            "data": by_type[place.what.data],
            "next": {"type": ["string", "null"], "description": "The parameter `after` of the next page."},
        },
    }
    error = {"application/json": {"schema": {"$ref": _REF.format(name="Error")}}}
    return {
        "summary": place.what.summary or place.title or place.path,
        "operationId": place.twin.removeprefix("/api/v1/").replace("/", "-").replace("{", "").replace("}", ""),
        "tags": [place.group],
        "parameters": [_parameter(param, in_path=param.name in place.names) for param in place.params],
        "responses": {
            "200": {"description": "The page.", "content": {"application/json": {"schema": answer}}},
            **{status: {"description": text, "content": error} for status, text in _REFUSALS.items()},
        },
    }


def _parameter(param: Param, *, in_path: bool) -> dict[str, Any]:
    described = {"name": param.name, "in": "path" if in_path else "query", "required": in_path, "schema": _schema(param)}
    return {**described, "description": param.help} if param.help else described


def _schema(param: Param) -> dict[str, Any]:
    match param.kind:
        case Kind.NUMBER:
            return {"type": "integer", "minimum": param.least, "maximum": param.most, "default": param.default or param.least}
        case Kind.CHOICE:
            return {"type": "string", "enum": list(param.choices)}
        case Kind.DOMAIN:
            return {"type": "string", "format": "idn-hostname", "maxLength": 253}
        case Kind.DAY | Kind.CURSOR:
            return {"type": "string", "pattern": _PATTERNS[param.kind]}
        case _:
            return {"type": "string", "maxLength": param.longest}
