"""Write NumPy values as JSON."""

from __future__ import annotations

from typing import Any, cast

import numpy as np


def plain(value: Any) -> Any:
    """Return a NumPy value as Python's own: the ``default`` of `json.dumps`.

    event-model's NumpyEncoder imports dask when it meets the first one, which takes seconds.

    Examples
    --------
    >>> import json
    >>> json.dumps({"a": np.float64(1.5), "b": np.arange(3)}, default=plain)
    '{"a": 1.5, "b": [0, 1, 2]}'

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        return cast(Any, value).tolist()
    raise TypeError(f"{type(value).__name__} is not a type that JSON has")
