"""Write the reference pages that can be read off the code, before Sphinx reads its sources.

``offbragg_reference`` in ``conf.py`` says which page comes from which module. Every page is
written to ``reference/generated/<page>.md`` and included by ``reference/<page>.md``, which
adds what the code cannot say. A source that is missing or has changed its shape is a
warning, so a build with ``-W`` fails.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from limits import limits
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


_TYPE_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    dict: "table",
    list: "list",
    Any: "anything",
}


def type_name(annotation: Any) -> str:
    """Write a type as a user would say it."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        given = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(type_name(argument) for argument in given)
    if origin is typing.Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return "[" + ", ".join(type_name(argument) for argument in arguments) + "]"
    if origin in (list, tuple, Sequence):
        return f"list of {type_name(arguments[0])}"
    if origin in (dict, Mapping):
        return "table"
    return _TYPE_NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation))


# --- configuration: pydantic models --------------------------------------------------------


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
    """Return what a field is when it is left out."""
    if field.is_required():
        return "**required**"
    if field.default_factory is not None:
        try:
            value = field.default_factory()
        except TypeError:
            return ""
        return code(toml_value(value)) if value else ""
    return "" if field.default in (None, "") else code(toml_value(field.default))


def toml_value(value: Any) -> str:
    """Write a value as it is written in TOML."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return f'"{value}"'
    return str(value)


def limits_of(field: Any) -> str:
    """Return the bounds that pydantic enforces on a field."""
    words = {"gt": "> ", "ge": "≥ ", "lt": "< ", "le": "≤ ", "min_length": "length ≥ "}
    bounds = [
        f"{word}{getattr(rule, name)}"
        for rule in field.metadata
        for name, word in words.items()
        if getattr(rule, name, None) is not None
    ]
    return ", ".join(bounds)


def sections(
    model: Any, models: list[type], path: str = "", *, required: bool = False
) -> Iterator[tuple[str, Any, bool]]:
    """Walk a model tree as TOML tables: path, model, and whether the table is required."""
    yield path, model, required
    for name, field in model.model_fields.items():
        for inner, mapping in models_inside(field.annotation, models):
            below = ".".join(filter(None, [path, field.alias or name]))
            below = f"{below}.<name>" if mapping else below
            yield from sections(inner, models, below, required=field.is_required() and not mapping)


def configuration(source: str) -> list[str]:
    """Describe every key of ``beamline.toml``; the root is the model that no other mentions."""
    models = models_of(importlib.import_module(source))
    mentioned = {
        inner
        for model in models
        for field in model.model_fields.values()
        for inner, _ in models_inside(field.annotation, models)
    }
    (root,) = (model for model in models if model not in mentioned)
    lines: list[str] = []
    for path, model, required in sections(root, models):
        title = f"`[{path}]`" if path else "Top level"
        lines += [f"## {title}{' (required)' if required else ''}", "", *prose(model.__doc__)]
        rows = []
        for name, field in model.model_fields.items():
            if list(models_inside(field.annotation, models)) or name in _NOT_KEYS:
                continue
            limits = limits_of(field)
            kind = type_name(field.annotation) + (f", {limits}" if limits else "")
            key = code(field.alias or name)
            rows.append((key, kind, default_of(field), field.description or ""))
        lines += table(["key", "type", "default", "meaning"], rows)
    return lines


_NOT_KEYS = {"file"}  # where the configuration came from; refused in the file itself


# --- start document: found out by trying -----------------------------------------------------


def start_document(source: str) -> list[str]:
    """Describe each entry of a start document; leave each out to see if it is required."""
    import tomllib

    from offbragg_example import example_start

    module = importlib.import_module(source)
    known = tomllib.loads((Path(__file__).parent / "start_fields.toml").read_text("utf-8"))
    start = example_start()
    module.validate_start(start)
    lines = []
    for group, fields in grouped(list(leaves(start, ""))):
        rows = []
        for name, value in fields:
            if name in ("uid", "time") or name.startswith(("per_frame.t", "per_frame.r")):
                continue
            if name not in known:
                raise LookupError(f"start_fields.toml does not say what {name} means")
            kind = type_of(value)
            required = "yes" if refuses(module, without(start, name)) else ""
            rows.append((code(name), kind, required, known.pop(name)))
        required = bool(group) and refuses(module, without(start, group))
        title = f"`{group}`{' (required)' if required else ''}" if group else "Top level"
        lines += [f"## {title}", "", *table(["entry", "type", "required", "meaning"], rows)]
    if known:
        raise LookupError(f"start_fields.toml describes what is not there: {', '.join(known)}")
    return lines


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Walk a document as dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value


def grouped(
    fields: list[tuple[str, Any]],
) -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """Group dotted names by their first part; names without a dot come first."""
    groups: dict[str, list[tuple[str, Any]]] = {"": []}
    for name, value in fields:
        groups.setdefault(name.partition(".")[0] if "." in name else "", []).append((name, value))
    yield from groups.items()


def type_of(value: Any) -> str:
    """Return what kind of value an entry has."""
    names = {str: "text", int: "whole number", float: "number", dict: "mapping"}
    if isinstance(value, list | tuple):
        inner = {type_of(item) for item in value}
        if inner == {"mapping"}:
            return "list of mappings"
        return f"{len(value)} × {inner.pop()}" if len(inner) == 1 else "list"
    return names[type(value)]


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Copy a document without one entry."""
    head, _, rest = name.partition(".")
    if rest:
        return {**document, head: without(document[head], rest)}
    return {key: value for key, value in document.items() if key != head}


def refuses(module: types.ModuleType, document: dict[str, Any]) -> bool:
    """Check whether a start document is refused."""
    from offbragg.errors import OffbraggError

    try:
        module.validate_start(document)
    except OffbraggError:
        return True
    return False


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
                rows = list(parameters(cls))
                if rows and is_dataclass(cls):
                    lines += table(["field", "type", "default", "meaning"], rows)
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
            rows = list(parameters(cls))
            if rows:
                lines += ["Parameters, also for `[devices.<name>]` in `beamline.toml`:", ""]
                lines += table(["parameter", "type", "default", "meaning"], rows)
            lines += signatures(cls)
    return lines


def parameters(cls: type) -> Iterator[tuple[str, str, str, str]]:
    """List the parameters of a device, besides its prefix and name."""
    initialiser: Any = cls.__init__
    hints = typing.get_type_hints(initialiser)
    meanings = described(cls.__doc__)
    for name, parameter in inspect.signature(initialiser).parameters.items():
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name in ("self", "prefix", "name") or variable:
            continue
        if name not in meanings and initialiser.__qualname__ != f"{cls.__name__}.__init__":
            continue  # of the ophyd class below: names, kinds and parents
        default = parameter.default
        if default is parameter.empty:
            shown = "**required**"
        else:
            shown = "" if default in (None, "") else code(toml_value(default))
        kind = type_name(hints[name]) if name in hints else ""
        yield code(name), kind, shown, meanings.get(name, "")


def described(docstring: str | None) -> dict[str, str]:
    """Read the Parameters section of a numpy docstring."""
    found = re.search(
        r"\nParameters\n-{3,}\n(.*?)(?=\n\n?[A-Z][A-Za-z ]+\n-{3,}\n|\Z)",
        "\n" + inspect.cleandoc(docstring or ""),
        re.DOTALL,
    )
    meanings: dict[str, str] = {}
    for part in re.split(r"\n(?=\S)", found.group(1) if found else ""):
        head, _, body = part.partition("\n")
        for name in head.partition(":")[0].split(","):
            meanings[name.strip()] = " ".join(body.split()).replace("``", "`")
    return meanings


def _is_made_up(doc: str) -> bool:
    """Distinguish ophyd's own filler ("Cpt(…)") from a description."""
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
    from typer.main import get_command

    module = importlib.import_module(source)
    root = get_command(module.app)
    lines = [*prose(root.help)]
    commands = {n: c for n, c in getattr(root, "commands", {}).items() if not c.hidden}
    if not commands:
        raise LookupError(f"{source}.app has no commands")
    for name, command in commands.items():
        shown = [
            parameter
            for parameter in command.params
            if not getattr(parameter, "hidden", False) and parameter.name != "help"
        ]
        options = [p for p in shown if p.param_type_name == "option"]
        arguments = [p for p in shown if p.param_type_name == "argument"]
        usage = ["offbragg", name, *(["[OPTIONS]"] if options else [])]
        usage += [written(p) if p.required else f"[{written(p)}]" for p in arguments]
        if command.context_settings.get("allow_extra_args"):
            usage.append("[-- …]")
        lines += [f"## `offbragg {name}`", "", *prose(command.help)]
        lines += ["```console", f"$ {' '.join(usage)}", "```", ""]
        rows = [(code(written(p)), default_value(p), p.help or "") for p in arguments + options]
        if rows:
            lines += table(["argument or option", "default", "meaning"], rows)
    return lines


def written(parameter: Any) -> str:
    """Write an argument or option as it is typed."""
    metavar = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        return metavar if parameter.nargs == 1 else f"{metavar}…"
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {metavar}"


def default_value(parameter: Any) -> str:
    """Return what an argument or option is when it is left out."""
    if parameter.required:
        return "**required**"
    if isinstance(getattr(parameter, "show_default", None), str):
        return parameter.show_default
    default = parameter.default
    if isinstance(default, bool) and parameter.secondary_opts:
        return code((parameter.opts if default else parameter.secondary_opts)[0])
    if isinstance(default, str | int | float | Path) and not isinstance(default, bool):
        return code(getattr(default, "value", default))
    return ""


# --- simulator -----------------------------------------------------------------------------


def simulator(source: str) -> list[str]:
    """Show the simulator's own help, and its records as its modules describe them."""
    module = importlib.import_module(f"{source}.__main__")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        module.parse(["--help"])
    lines = ["## Options", "", "```text", *output.getvalue().splitlines(), "```", ""]
    for name, title in _SIMULATED.items():
        part = importlib.import_module(f"{source}.{name}")
        text = inspect.cleandoc(part.__doc__ or "")
        lines += [f"## {title}", "", "```{eval-rst}", *text.splitlines(), "```", ""]
    return lines


_SIMULATED = {
    "ioc": "All of it, and its own records",
    "pilatus": "Detector",
    "driver": "Detector: its settings",
    "plugins": "Detector: its plug-ins",
    "motor": "Axes",
    "cryostream": "Cryostream",
    "lakeshore": "LakeShore",
    "beam": "Ring, attenuator, shutter, counter",
}


# --- file layout ---------------------------------------------------------------------------


def file_layout(source: str) -> list[str]:
    """Make a scan file of three tiny frames and print what is in it."""
    import h5py
    from offbragg_example import example_scan_file

    with tempfile.TemporaryDirectory() as folder:
        path = example_scan_file(importlib.import_module(source), Path(folder))
        with h5py.File(path, "r") as file:
            listing = [f"{path.name}"]
            listing += tree(file["/"], "", hide=str(folder), seen={})
    return ["```text", *listing, "```", ""]


def tree(group: Any, indent: str, *, hide: str, seen: dict[int, str]) -> list[str]:
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
        address = h5py.h5o.get_info(thing.id).addr
        if address in seen:
            lines.append(f"{indent}{branch}{name} → {seen[address]}")
            continue
        seen[address] = thing.name
        if isinstance(thing, h5py.Group):
            kind = text(thing.attrs.get("NX_class", ""))
            lines.append(f"{indent}{branch}{name}{': ' + kind if kind else ''}")
            lines += tree(thing, indent + below, hide=hide, seen=seen)
        else:
            lines.append(f"{indent}{branch}{name}{describe(thing, hide=hide)}")
            lines += attributes(thing, indent + below, hide=hide, skip=("units",))
    return lines


def attributes(thing: Any, indent: str, *, hide: str, skip: tuple[str, ...] = ()) -> list[str]:
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
    "simulator": simulator,
    "start-document": start_document,
    "errors": errors,
    "limits": lambda source: limits(source, table),
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


_COLON = "\ue000"


def hide_colons(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading "Angle: half a step …" as "type: description"."""
    if what in ("property", "attribute", "data"):
        lines[:] = [line.replace(":", _COLON) for line in lines]


def mend_text(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Put the colons back, and keep |s0| a length: it would be read as a substitution."""
    lines[:] = [re.sub(r"(?<!\\)\|", r"\\|", line.replace(_COLON, ":")) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_config_value("offbragg_reference", {}, "env", [dict])
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-docstring", hide_colons, priority=400)
    app.connect("autodoc-process-docstring", mend_text, priority=900)
    return {"parallel_read_safe": True, "version": "1"}
