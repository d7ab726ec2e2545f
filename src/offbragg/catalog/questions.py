"""Refuse questions that the catalog cannot answer, and answer when the server itself fails.

Tiled takes the values of a search as JSON and passes them to the database unchecked; what does not
fit becomes an error of the server, and its clients then ask again and again. Here such a question
is refused with the reason; and if the server does fail, that is answered, too.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from urllib.parse import parse_qsl

from sqlalchemy.exc import SQLAlchemyError

from offbragg.catalog.authentication import App, Message, Receive, Scope, Send, refuse
from offbragg.printable import printable

_FIELD = re.compile(r"filter\[(\w+)\]\[condition\]\[(\w+)\]")
_ONE = {("eq", "value"), ("noteq", "value"), ("contains", "value"), ("comparison", "value")}
_SEVERAL = {("in", "value"), ("notin", "value")}
_WORDS = {("keys_filter", "keys"), ("specs", "include"), ("specs", "exclude"),
          ("access_tags_filter", "tags")}  # fmt: skip
_WORD = {("like", "pattern"), ("regex", "pattern")}
_INTEGER = 2**63  # integers of SQLite are below it
_SLICE = re.compile(r"(^|,)[^,:]*:[^,:]*:\s*[+-]?0+\s*(,|$)")
_ASKS = tuple(f"/api/v1/{kind}" for kind in ("search", "distinct", "revisions", "metadata"))
_OWN = re.compile(r"locked|disk|unable to open|read-?only|malformed|I/O|no such table", re.I)
_WRONG = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError,
          NotImplementedError, SQLAlchemyError)  # fmt: skip

_log = logging.getLogger(__name__)


class Questions:
    """Refuses questions that cannot be answered.

    Parameters
    ----------
    app
        The app that answers.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        query = scope["query_string"].decode("latin-1")
        if why := next(troubles(query), None):
            await refuse(send, 400, why)
            return
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            begun = True
            if message.get("status") == 500 and "expected_shape=" in query:
                message = {**message, "status": 400}  # the array is not as the client expected
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except Exception as error:
            if begun:
                raise
            if _is_about(scope, error):
                what = str(getattr(error, "orig", None) or error).partition("\n")[0][:300]
                await refuse(
                    send, 400, f"The catalog cannot answer this question: {printable(what)}"
                )
                return
            _log.exception("a request failed: %s %s", scope["method"], printable(scope["path"]))
            await refuse(
                send, 500, "The catalog could not answer this request; its log has the reason."
            )


def troubles(query: str) -> Iterator[str]:
    """Find what is wrong with the values of a query.

    Examples
    --------
    >>> next(troubles("filter[eq][condition][key]=a&filter[eq][condition][value]=null"))
    'filter[eq][condition][value] is null: it must be a text in quotes, a number, true or false.'
    >>> list(troubles("filter[eq][condition][key]=a&filter[eq][condition][value]=1.5"))
    []
    """
    for name, value in parse_qsl(query, keep_blank_values=True):
        shown = f"{printable(name)} is {printable(value[:60])}"
        if "\0" in value or "\0" in name:
            yield f"{printable(name)} contains a null character."
        elif name == "slice" and _SLICE.search(value):
            yield f"{shown}: the step of a slice cannot be 0."
        elif field := _FIELD.fullmatch(name):
            which = field[1], field[2]
            if wanted := _wanted(which, value):
                yield f"{shown}: it must be {wanted}."


def _wanted(field: tuple[str, str], value: str) -> str:
    """Return what the value of a search must be; an empty string if it is."""
    if field not in _ONE | _SEVERAL | _WORDS | _WORD:
        return ""
    try:
        found = json.loads(value)
        value.encode()
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return "JSON: a text is written in quotes"
    if field in _WORD:
        return "" if isinstance(found, str) else "a text in quotes"
    if field in _WORDS:
        good = isinstance(found, list) and all(isinstance(one, str) for one in found)
        return "" if good else "a list of texts in quotes"
    if field in _SEVERAL:
        good = isinstance(found, list) and all(_is_scalar(one) for one in found)
        return "" if good else "a list of texts in quotes, numbers, true or false"
    if field[0] == "comparison" and isinstance(found, bool):
        return "a text in quotes or a number"
    if not _is_scalar(found):
        return "a text in quotes, a number, true or false"
    return ""


def _is_scalar(value: object) -> bool:
    if isinstance(value, int) and not -_INTEGER <= value < _INTEGER:
        return False
    return isinstance(value, str | int | float)


def _is_about(scope: Scope, error: Exception) -> bool:
    """Return whether the question was wrong, and not the server."""
    if not scope["query_string"] or not scope["path"].startswith(_ASKS):
        return False
    return isinstance(error, _WRONG) and not _OWN.search(str(error))
