"""Which certificates of servers are trusted: those of the system's list, or of a file of one's own.

The file is named by the environment variable ``SSL_CERT_FILE``, as for curl and for Python itself.
httpx reads it only together with the settings of proxies, which are left out on the way to our own
host.
"""

from __future__ import annotations

import os
import ssl

from offbragg.errors import CatalogError

VARIABLE = "SSL_CERT_FILE"


def trusted(address: str) -> ssl.SSLContext | bool:
    """Return what httpx shall verify a server with.

    Parameters
    ----------
    address
        The server's, as ``https://diffuse.example.org``.

    Raises
    ------
    CatalogError
        If the file of ``SSL_CERT_FILE`` cannot be read, or holds no certificate.
    """
    file = os.environ.get(VARIABLE, "")
    if not file or not address.startswith("https:"):
        return True
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror if isinstance(error, FileNotFoundError) else "no certificate in PEM"
        raise CatalogError(
            f"the certificates to trust cannot be read: {reason}\n{file}\n"
            f"The environment variable {VARIABLE} names this file."
        ) from error
