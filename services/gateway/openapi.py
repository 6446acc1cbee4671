"""``proto/openapi.yaml``: OpenAPI 3.1 of the API, made from the table of routes and the models.

``python -m services.gateway.openapi proto`` writes it, with ``--check`` it says whether it has drifted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from framemesh import __version__
from framemesh.media import EDITION_PATTERN, FILE_PATTERN, MEDIA_PATTERN, RENDITION_PATTERN
from framemesh.steps.plan import NAME_PATTERN
from services.gateway.desk import JOB_PATTERN
from services.gateway.documents import KEY_PATTERN, Alive
from services.gateway.events import SEEN_HEADER
from services.gateway.handlers import FORM, JSON, KEY_HEADER
from services.gateway.problems import MEDIA_TYPE, TITLES, ProblemDocument
from services.gateway.route import Route
from services.gateway.routes import HEALTH, ROUTES
from services.gateway.tickets import TICKET_PATTERN
from services.gateway.uploads import JSON_FIELD, Shape

Node = dict[str, Any]

FILE = "openapi.yaml"
_HEAD = "# Made from services/gateway/routes.py and its models by `make generate`: do not edit.\n"
_REF = "#/components/schemas/{model}"
_ALWAYS = (400, 401, 403, 500, 503)
_EVENTS = "text/event-stream"
_EMPTY = {204: "There is nothing to tell", 304: "It is what If-None-Match says"}
_PATTERNS = {
    "jobId": JOB_PATTERN,
    "collection": NAME_PATTERN,
    "mediaId": MEDIA_PATTERN,
    "edition": EDITION_PATTERN,
    "rendition": RENDITION_PATTERN,
    "file": FILE_PATTERN,
    "ticket": TICKET_PATTERN,
    KEY_HEADER: KEY_PATTERN,
    SEEN_HEADER: "^[0-9]{1,18}$",
}
"""Of parameters in paths and headers; what is not here is any text."""
_DESCRIPTION = """\
Analyses of videos, and the durable jobs that they are. No outside service is ever called back: poll or stream.

A token is made by `framemesh tokens create NAME --scope viewer|operator|admin`; each scope may do what those
before it may. A job belongs to the name of the token that submitted it; admin has everybody's. Times are seconds
since the epoch (UTC). Errors are problem documents (RFC 9457).
"""


def document() -> Node:
    """The whole of it."""
    paths: Node = {HEALTH: {"get": _health()}}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Framemesh",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:8000"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "responses": {str(status): _problem(status) for status in sorted(TITLES)},
            "schemas": _schemas(),
        },
    }


def _operation(route: Route) -> Node:
    found: Node = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"Needs a token of scope {route.scope}.",
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
    }
    if route.by_ticket:
        found |= {"description": "Needs no token but the ticket.", "security": []}
    if route.body or route.form:
        found["requestBody"] = _body(route)
    problems = sorted({*_ALWAYS, *route.problems})
    found["responses"] = {str(status): _answer(route, status) for status in sorted(route.statuses)} | {
        str(status): {"$ref": f"#/components/responses/{status}"} for status in problems
    }
    return found


def _health() -> Node:
    return {
        "operationId": "getHealth",
        "summary": "Whether the gateway is alive; needs no token.",
        "security": [],
        "responses": {"200": {"description": "It is", "content": {JSON: {"schema": _ref(Alive)}}}},
    }


def _path_parameters(route: Route) -> list[Node]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _text(name)}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _text(name: str) -> Node:
    return {"type": "string"} | ({"pattern": _PATTERNS[name]} if name in _PATTERNS else {"minLength": 1})


def _query_parameters(route: Route) -> list[Node]:
    schema = route.query.model_json_schema()
    found = []
    for name, field in schema.get("properties", {}).items():
        each = _inlined(field, schema.get("$defs", {}))
        given = {"name": name, "in": "query", "required": name in schema.get("required", ())}
        found.append(given | {"description": each.pop("description", ""), "schema": each})
    return found


def _inlined(each: Node, known: Node) -> Node:
    """A parameter's schema by itself: one that may be left out is never null."""
    kinds = [kind for kind in each.pop("anyOf", []) if kind != {"type": "null"}]
    if kinds and each.get("default", ...) is None:
        del each["default"]
    found = {name: value for name, value in each.items() if name != "title"} | (kinds[0] if kinds else {})
    if reference := found.pop("$ref", None):
        target = known[reference.rpartition("/")[2]]
        found |= {name: target[name] for name in ("type", "enum")}
    return found


def _headers(route: Route) -> list[Node]:
    return [
        {"name": name, "in": "header", "description": text, "schema": _text(name)}
        for name, text in route.headers.items()
    ]


def _body(route: Route) -> Node:
    content: Node = {}
    if route.body:
        content[JSON] = {"schema": _ref(route.body)}
    if route.form:
        content[FORM] = {"schema": {"$ref": _REF.format(model=_form_name(route))}}
        if JSON_FIELD in route.form.fields:
            content[FORM]["encoding"] = {JSON_FIELD: {"contentType": JSON}}
    return {"required": True, "content": content}


def _answer(route: Route, status: int) -> Node:
    if status in _EMPTY:
        return {"description": _EMPTY[status]}
    if route.is_stream and route.answer:
        text = f"Events; the data of each is a {route.answer.__name__}, its id a number for {SEEN_HEADER}"
        return {"description": text, "content": {_EVENTS: {"schema": {"type": "string"}}}}
    if route.answer is None:
        file = {"schema": {"type": "string", "format": "binary"}}
        return {"description": "The file", "content": dict.fromkeys(route.media, file)}
    return {"description": _said(status), "content": {JSON: {"schema": _ref(route.answer)}}}


def _said(status: int) -> str:
    return {201: "Made", 202: "Accepted"}.get(status, "As it stands")


def _problem(status: int) -> Node:
    return {"description": TITLES[status][1], "content": {MEDIA_TYPE: {"schema": _ref(ProblemDocument)}}}


def _schemas() -> Node:
    answers = {route.answer for route in ROUTES if route.answer} | {Alive, ProblemDocument}
    bodies = {route.body for route in ROUTES if route.body}
    forms = {_form_name(route): route.form for route in ROUTES if route.form}
    wanted = [(model, "serialization") for model in answers]
    wanted += [(model, "validation") for model in bodies | {form.texts for form in forms.values()}]
    wanted.sort(key=lambda pair: pair[0].__name__)
    _, found = models_json_schema(wanted, ref_template=_REF)  # type: ignore[arg-type]
    schemas: Node = found["$defs"]
    made = {name: _form(name, form, schemas[form.texts.__name__]) for name, form in forms.items()}
    parts = {form.texts.__name__ for form in forms.values()}
    return dict(sorted((name, node) for name, node in (schemas | made).items() if name not in parts))


def _form_name(route: Route) -> str:
    return f"{route.name[0].upper()}{route.name[1:]}Form"


def _form(name: str, form: Shape, texts: Node) -> Node:
    """The texts of a form, and its file or files."""
    properties = {
        field: _inlined(dict(each), {}) if "anyOf" in each else each for field, each in texts["properties"].items()
    }
    file: Node = {"type": "string", "format": "binary", "minLength": 1, "description": form.what.capitalize()}
    if form.many > 1:
        file = {"type": "array", "items": file, "minItems": 1, "maxItems": form.many}
    return {
        "title": name,
        "type": "object",
        "additionalProperties": False,
        "required": [form.file, *texts.get("required", ())],
        "properties": {form.file: file} | properties,
    }


def _ref(model: type[BaseModel]) -> Node:
    return {"$ref": _REF.format(model=model.__name__)}


def text() -> str:
    """As it lies in ``proto``."""
    import yaml  # noqa: PLC0415 - the service runs without it

    class Dumper(yaml.SafeDumper):
        """Texts of several lines as they are read."""

    def written(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, written)
    plain = json.loads(json.dumps(document()))  # no enums and no shared parts, which YAML would write as anchors
    return _HEAD + str(yaml.dump(plain, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the file; 1 when it has drifted."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway.openapi", description="OpenAPI of the API.")
    parser.add_argument("folder", type=Path, help="where the file lies, e.g. proto")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file has drifted")
    asked = parser.parse_args(arguments)
    path: Path = asked.folder / FILE
    made = text()
    if not asked.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made, "utf-8")
        sys.stdout.write(f"{path}\n")
        return 0
    if not path.is_file() or path.read_text("utf-8") != made:
        sys.stderr.write(f"{path} has drifted from the code; run `make generate`\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
