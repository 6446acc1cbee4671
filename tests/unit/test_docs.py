"""The pages say what the code says: settings, commands, links."""

from __future__ import annotations

import json
import re
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic.fields import FieldInfo

from framemesh.cli import app
from framemesh.inference import WorkerSettings
from framemesh.mesh import service_names, step_services
from framemesh.messages import Message
from framemesh.schemas import ALL
from framemesh.settings import Settings
from framemesh.steps.worker import StepSettings, StepWorker

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(DOCS.rglob("*.md"))
IN_WORDS = {"delivery", "detection_confidence", "event_rules", "media_ladder"}
"""Settings whose default the page describes."""


def section(page: str, title: str) -> str:
    """A page's part from a heading of the second level to the next."""
    found = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", (DOCS / page).read_text(), re.M | re.S)
    assert found, f"docs/{page} has no section {title!r}"
    return found[1]


def rows(text: str) -> dict[str, list[str]]:
    """Rows of a section's tables by each of the names in their first cell."""
    cells = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in text.splitlines() if line.startswith("| `")]
    return {name: row for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def shown(field: FieldInfo) -> str:
    """A default as the pages write it."""
    if field.is_required():
        return "required"
    default = field.default.value if isinstance(field.default, Enum) else field.default
    return "empty" if default == "" else f"`{default}`"


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_message_has_an_example(kind: type[Message]) -> None:
    example = re.search(r"^    \{.*?(?=\n\n|\Z)", section("messages.md", kind.__name__), re.M | re.S)
    assert example, kind
    if "…" not in example[0]:  # else it is shortened
        kind.model_validate(json.loads(example[0]))


def own_fields(settings: type[Settings], base: type[Settings]) -> dict[str, FieldInfo]:
    return {name: field for name, field in settings.model_fields.items() if name not in base.model_fields}


def check_settings(text: str, fields: dict[str, FieldInfo]) -> None:
    table = rows(re.split(r"\nA route is|\n### ", text)[0])
    assert set(table) == set(fields)
    for name, field in fields.items():
        if name not in IN_WORDS and field.default_factory is None and name not in {"source", "instance"}:
            assert table[name][1] == shown(field), name


def test_settings_of_every_service(every_settings: dict[str, type[Settings]]) -> None:
    check_settings(section("services.md", "Every service"), dict(Settings.model_fields))
    check_settings(section("services.md", "Model workers"), own_fields(WorkerSettings, Settings))
    check_settings(section("services.md", "Step workers"), own_fields(StepSettings, Settings))
    assert len(every_settings) == len(service_names())
    for name, settings in every_settings.items():
        base = next((each for each in (WorkerSettings, StepSettings) if issubclass(settings, each)), Settings)
        title = name.removesuffix("Settings").lower()
        check_settings(section("services.md", title), own_fields(settings, base))


@pytest.mark.parametrize("name", step_services())
def test_settings_of_the_steps_of_whole_files(name: str, every_settings: dict[str, type[Settings]]) -> None:
    found = vars(import_module(f"services.{name}")).values()
    settings: type[Settings] = next(
        each for each in found if StepWorker in getattr(each, "__bases__", ())
    ).settings_type
    live = next(
        each for title, each in every_settings.items() if f"{title.removesuffix('Settings').lower()}.steps" == name
    )
    known = live.model_fields | StepSettings.model_fields
    own = {
        field: given
        for field, given in settings.model_fields.items()
        if field not in known or given.default != known[field].default
    }
    check_settings(section("services.md", name), own)


def test_every_service_is_in_the_readme() -> None:
    assert {*service_names(), *step_services()} <= {
        name
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("|")
        for name in line.split("|")[1].strip().split(", ")
    }


def commands(command: Any, name: str) -> dict[str, Any]:
    """A command and those below it by their full names; a group without options of its own is left out."""
    below = {
        full: found
        for child in getattr(command, "commands", {}).values()
        for full, found in commands(child, f"{name} {child.name}").items()
    }
    return below if name == "framemesh assets" else {name: command} | below


def test_every_command_and_option() -> None:
    known = commands(typer.main.get_command(app), "framemesh")
    titles = re.findall(r"^## (.+)$", (DOCS / "cli.md").read_text(), re.M)
    assert sorted(titles) == sorted(known)
    for name, command in known.items():
        given = {opt for param in command.params if param.param_type_name == "option" for opt in param.opts}
        told = {option for option in rows(section("cli.md", name)) if option.startswith("-")}
        assert told - {"--install-completion", "--show-completion"} == given - {
            "--help", "-h", "--install-completion", "--show-completion"
        }, name  # fmt: skip


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
            anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"


def test_every_page_is_linked_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"docs/{page.name}" in text
