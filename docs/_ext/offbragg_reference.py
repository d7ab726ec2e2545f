"""Write the reference pages that can be read off the code, before Sphinx reads its sources.

``offbragg_reference`` in ``conf.py`` says which page comes from which module. Every page is
written to ``reference/generated/<page>.md`` and included by ``reference/<page>.md``, which
adds what the code cannot say. A source that is missing or has changed its shape is a
warning, so a build with ``-W`` fails.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)


# --- Markdown ------------------------------------------------------------------------------


def cell(text: object) -> str:
    """Make one table cell: one line, no column separator."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Make inline code, or nothing for nothing."""
    text = str(text)
    return f"`{text}`" if text else ""


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Make a Markdown table."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return [*lines, ""]


def prose(docstring: str | None) -> list[str]:
    """Turn the text of a docstring, up to its first numpy section, into Markdown."""
    text = inspect.cleandoc(docstring or "")
    text = re.split(r"\n[A-Z][A-Za-z ]+\n-{3,}\n", "\n" + text)[0].strip()
    text = re.sub(r":[a-z:]+:`~?([^`]+)`", r"`\1`", text)
    text = text.replace("``", "`").replace("::\n", ":\n")
    return [text, ""] if text else []


def type_name(annotation: Any) -> str:
    """Write a type as a user would say it."""
    if annotation is type(None):
        return "none"
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(argument) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is not None:
        inside = ", ".join("…" if a is Ellipsis else type_name(a) for a in arguments)
        return f"{type_name(origin)}[{inside}]"
    return getattr(annotation, "__name__", str(annotation).removeprefix("typing."))


# --- configuration, start document: pydantic models ----------------------------------------


def models_of(module: types.ModuleType) -> list[type]:
    """Find the pydantic models that a module defines, in the order of its source."""
    from pydantic import BaseModel

    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, BaseModel)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    if not found:
        raise LookupError(f"{module.__name__} defines no pydantic model")
    return found


def models_inside(annotation: Any, models: list[type]) -> Iterator[tuple[type, bool]]:
    """Yield the models that a type mentions, and whether as the values of a mapping."""
    if annotation in models:
        yield annotation, False
    mapping = typing.get_origin(annotation) is dict
    for argument in typing.get_args(annotation):
        for model, inner in models_inside(argument, models):
            yield model, inner or mapping


def default_of(field: Any) -> str:
    """Say what a field is when it is left out."""
    if field.is_required():
        return "**required**"
    if field.default_factory is not None:
        try:
            value = field.default_factory()
        except TypeError:
            return ""
        return "" if hasattr(value, "model_dump") else code(repr(value))
    if field.default is None:
        return "none"
    if hasattr(field.default, "model_dump"):
        return ""
    return code(repr(field.default))


def limits_of(field: Any) -> str:
    """Say the bounds that pydantic enforces on a field."""
    words = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ ", "min_length": "length ≥ "}
    said = [
        f"{word}{getattr(rule, name)}"
        for rule in field.metadata
        for name, word in words.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join(said)


def sections(model: type, models: list[type], path: str) -> Iterator[tuple[str, type]]:
    """Walk a model tree as TOML tables."""
    yield path, model
    for name, field in model.model_fields.items():
        key = field.alias or name
        for inner, mapping in models_inside(field.annotation, models):
            below = f"{path}.{key}" if path else key
            yield from sections(inner, models, f"{below}.<name>" if mapping else below)


def model_page(module: types.ModuleType, *, brackets: bool) -> list[str]:
    """Describe every key of the models of a module; the root is what no other mentions."""
    models = models_of(module)
    mentioned = {
        inner
        for model in models
        for field in model.model_fields.values()
        for inner, _ in models_inside(field.annotation, models)
        if inner is not model
    }
    subclassed = {base for model in models for base in model.__mro__[1:]}
    roots = [m for m in models if m not in mentioned and m not in subclassed]
    lines: list[str] = []
    seen: set[tuple[str, type]] = set()
    for root in roots:
        for path, model in sections(root, models, ""):
            if (path, model) in seen:
                continue
            seen.add((path, model))
            title = (f"`[{path}]`" if brackets else f"`{path}`") if path else "Top level"
            if any(seen_path == path and other is not model for seen_path, other in seen):
                title += f" ({model.__name__})"
            lines += [f"## {title}", "", *prose(model.__doc__)]
            rows = []
            for name, field in model.model_fields.items():
                limits = limits_of(field)
                kind = type_name(field.annotation) + (f", {limits}" if limits else "")
                rows.append(
                    (code(field.alias or name), kind, default_of(field), field.description or "")
                )
            lines += table(["key", "type", "default", "meaning"], rows)
    return lines


def configuration(source: str) -> list[str]:
    """Describe ``beamline.toml``."""
    return model_page(importlib.import_module(source), brackets=True)


def start_document(source: str) -> list[str]:
    """Describe what offbragg adds to Bluesky's start document."""
    return model_page(importlib.import_module(source), brackets=False)


# --- devices, plans ------------------------------------------------------------------------


def modules_of(package: str) -> list[types.ModuleType]:
    """Import a package's public modules, in the order of their names."""
    root = importlib.import_module(package)
    names = sorted(info.name for info in pkgutil.iter_modules(root.__path__))
    modules = [importlib.import_module(f"{package}.{n}") for n in names if n[0] != "_"]
    if not modules:
        raise LookupError(f"{package} has no modules yet")
    return modules


def local(module: types.ModuleType, wanted: Callable[[Any], bool]) -> list[Any]:
    """Find the public things that a module defines itself, in the order of its source."""
    return [
        value
        for name, value in vars(module).items()
        if wanted(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def devices(source: str) -> list[str]:
    """List every device class with its records."""
    from ophyd import Device, EpicsSignalWithRBV, Kind

    lines: list[str] = []
    for module in modules_of(source):
        classes = local(module, inspect.isclass)
        if not classes:
            continue
        lines += [f"## `{module.__name__}`", "", *prose(module.__doc__)]
        for cls in classes:
            lines += [f"### `{cls.__name__}`", "", *prose(cls.__doc__)]
            if not issubclass(cls, Device):
                continue
            rows = []
            for name, part in cls._sig_attrs.items():
                kind = part.kind
                kind = kind.name if isinstance(kind, Kind) else str(kind)
                pv = code(part.suffix or "")
                if issubclass(part.cls, EpicsSignalWithRBV):
                    pv += f", {code((part.suffix or '') + '_RBV')}"
                doc = "" if _is_made_up(part.doc or "") else part.doc
                rows.append((code(name), pv, part.cls.__name__, kind, doc))
            if rows:
                head = ["component", "record", "class", "kind"]
                described = any(row[-1] for row in rows)
                lines += table(
                    [*head, "meaning"] if described else head,
                    rows if described else [row[:-1] for row in rows],
                )
            lines += signatures(cls)
    return lines


def _is_made_up(doc: str) -> bool:
    """Tell ophyd's own filler ("Cpt(…)") from a description."""
    return "Component attribute" in doc or doc.startswith(("Component(", "Cpt("))


def signatures(cls: type) -> list[str]:
    """List the public methods that a class itself defines and describes."""
    lines = []
    for name, value in vars(cls).items():
        if name.startswith("_") or not inspect.isfunction(value) or not value.__doc__:
            continue
        first = inspect.cleandoc(value.__doc__).splitlines()[0].replace("``", "`")
        lines.append(f"- `{name}{short_signature(value)}`: {first}")
    return [*lines, ""] if lines else []


def short_signature(function: Callable[..., Any]) -> str:
    """Write the parameters without ``self`` and without annotations."""
    parameters = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in inspect.signature(function).parameters.values()
        if p.name != "self"
    ]
    return str(inspect.Signature(parameters))


def plans(source: str) -> list[str]:
    """Let autodoc show every plan with its signature and docstring."""
    lines: list[str] = []
    for module in modules_of(source):
        lines += [f"## `{module.__name__}`", "", *prose(module.__doc__)]
        for thing in local(module, lambda v: inspect.isfunction(v) or inspect.isclass(v)):
            directive = "autofunction" if inspect.isfunction(thing) else "autoclass"
            options = [] if directive == "autofunction" else ["   :members:"]
            name = f"{module.__name__}.{thing.__name__}"
            lines += ["```{eval-rst}", f".. {directive}:: {name}", *options, "```", ""]
    return lines


# --- command line --------------------------------------------------------------------------


def command_line(source: str) -> list[str]:
    """Describe every command with its arguments and options."""
    import click
    from typer.main import get_command

    module = importlib.import_module(source)
    root = get_command(module.app)
    context = click.Context(root, info_name="offbragg")
    lines = [*prose(root.help)]
    commands = getattr(root, "commands", {})
    if not commands:
        raise LookupError(f"{source}.app has no commands")
    for name, command in commands.items():
        if command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        usage = " ".join(["offbragg", name, *command.collect_usage_pieces(inner)])
        lines += [f"## `offbragg {name}`", "", *prose(command.help)]
        lines += ["```console", f"$ {usage}", "```", ""]
        rows = []
        for parameter in command.params:
            if getattr(parameter, "hidden", False) or parameter.name == "help":
                continue
            rows.append(parameter_row(parameter, inner))
        if rows:
            lines += table(["argument or option", "default", "meaning"], rows)
    return lines


def parameter_row(parameter: Any, context: Any) -> tuple[str, str, str]:
    """Describe one argument or option of a command."""
    is_flag = getattr(parameter, "is_flag", False)
    if parameter.param_type_name == "argument":
        written = code(parameter.make_metavar(context))
    else:
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
        metavar = "" if is_flag else f" {parameter.make_metavar(context)}"
        written = code(names + metavar)
    default = parameter.default
    if callable(default):
        default = None
    if default in (None, False, (), ...) or "Sentinel" in type(default).__name__:
        shown = "**required**" if parameter.required else ""
    else:
        shown = code(getattr(default, "value", default))
    return written, shown, getattr(parameter, "help", None) or ""


# --- file layout ---------------------------------------------------------------------------


def file_layout(source: str) -> list[str]:
    """Make a scan file of three tiny frames and print what is in it."""
    import h5py
    from offbragg_example import example_scan_file

    with tempfile.TemporaryDirectory() as folder:
        path = example_scan_file(importlib.import_module(source), Path(folder))
        with h5py.File(path, "r") as file:
            listing = [f"{path.name}"]
            listing += tree(file["/"], "", hide=str(folder))
    return ["```text", *listing, "```", ""]


def tree(group: Any, indent: str, *, hide: str) -> list[str]:
    """Draw an HDF5 group with types, shapes, units and values of scalars."""
    import h5py

    lines = attributes(group, indent, hide=hide)
    names = list(group)
    for place, name in enumerate(names):
        last = place == len(names) - 1
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.SoftLink):
            lines.append(f"{indent}{branch}{name} → {link.path}")
            continue
        if isinstance(link, h5py.ExternalLink):
            lines.append(f"{indent}{branch}{name} → {link.filename} {link.path}")
            continue
        thing = group[name]
        if isinstance(thing, h5py.Group):
            kind = text(thing.attrs.get("NX_class", ""))
            lines.append(f"{indent}{branch}{name}{': ' + kind if kind else ''}")
            lines += tree(thing, indent + below, hide=hide)
        else:
            lines.append(f"{indent}{branch}{name}{describe(thing, hide=hide)}")
            lines += attributes(thing, indent + below, hide=hide, skip=("units",))
    return lines


def attributes(
    thing: Any, indent: str, *, hide: str, skip: tuple[str, ...] = ()
) -> list[str]:
    """Write the attributes of a group or dataset, one a line."""
    return [
        f"{indent}@{name} = {shorten(text(value), hide)}"
        for name, value in thing.attrs.items()
        if name not in ("NX_class", *skip)
    ]


def describe(dataset: Any, *, hide: str) -> str:
    """Write type, shape and, of a scalar, the value of a dataset."""
    units = text(dataset.attrs.get("units", ""))
    units = f" {units}" if units else ""
    kind = f"S{dataset.dtype.itemsize}" if dataset.dtype.kind == "S" else str(dataset.dtype)
    if dataset.dtype.kind == "O":
        kind = "string"
    if dataset.shape:
        shape = " × ".join(str(n) for n in dataset.shape)
        chunks = f", chunk {' × '.join(str(n) for n in dataset.chunks)}" if dataset.chunks else ""
        return f": {kind} [{shape}]{chunks}{units}"
    return f": {kind} = {shorten(text(dataset[()]), hide)}{units}"


def text(value: Any) -> str:
    """Read bytes, arrays and numbers alike as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
        return text(value) if isinstance(value, bytes) else _list(value)
    return str(value)


def _list(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_list(item) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else text(value)


def shorten(value: str, hide: str, *, limit: int = 64) -> str:
    """Keep a value to one short line without the folder it was made in."""
    value = " ".join(value.replace(hide, "<experiment>").split())
    return value if len(value) <= limit else value[: limit - 1] + "…"


# --- errors --------------------------------------------------------------------------------


def errors(source: str) -> list[str]:
    """Show the error tree as its module draws it, and each exit code."""
    module = importlib.import_module(source)
    drawn = inspect.cleandoc(module.__doc__ or "")
    block = re.search(r"::\n\n((?: {4}.*\n|\n)+)", drawn)
    if block is None:
        raise LookupError(f"the docstring of {source} draws no tree")
    lines = ["```text", inspect.cleandoc(block.group(1)), "```", ""]
    classes = local(module, lambda v: inspect.isclass(v) and issubclass(v, Exception))
    rows = [
        (code(c.__name__), c.exit_code, inspect.cleandoc(c.__doc__ or "").splitlines()[0])
        for c in classes
    ]
    return lines + table(["error", "exit code", "when"], rows)


# --- the extension -------------------------------------------------------------------------

PAGES: dict[str, Callable[[str], list[str]]] = {
    "configuration": configuration,
    "devices": devices,
    "plans": plans,
    "command-line": command_line,
    "file-layout": file_layout,
    "start-document": start_document,
    "errors": errors,
}


def write_pages(app: Sphinx) -> None:
    """Write every page, touching only those whose text has changed."""
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    for page, source in app.config.offbragg_reference.items():
        try:
            lines = PAGES[page](source)
        except Exception as reason:
            log.warning("reference/%s cannot be made from %s: %r", page, source, reason)
            lines = [f"*This page is made from `{source}`, which could not be read.*", ""]
        new = "\n".join(lines)
        path = folder / f"{page}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != new:
            path.write_text(new, encoding="utf-8")


def escape_bars(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Keep |s0| in a docstring a length; reStructuredText would read a substitution."""
    lines[:] = [re.sub(r"(?<!\\)\|", r"\\|", line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_config_value("offbragg_reference", {}, "env", [dict])
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", escape_bars, priority=900)
    return {"parallel_read_safe": True, "version": "1"}
