"""Send what was measured to another host, while it is measured, and receive it there.

The sender connects a ZeroMQ DEALER to the receiver's ROUTER, encrypted with CURVE keys; the
receiver takes senders only whose public keys it lists. Each message has two parts: a JSON object
whose ``do`` names the message, and bytes, which only ``lines`` and ``piece`` have.

======================================  ==========================================================
sender → receiver                       the receiver answers
======================================  ==========================================================
``hello`` version, source, roots,       ``welcome``, or ``refused`` for another version
pause
``run`` uid                             ``lines`` uid, have (complete lines on its disk), ended
``lines`` uid, first; bytes             ``lines`` uid, have, ended, once they are on its disk
``offer`` name, size, sha256            ``have`` name: it is on its disk; ``want`` name, start,
                                        stop; ``later`` name: another sender is sending it;
                                        ``unknown`` name: it is not there and the offer had an
                                        empty sha256; ``refused`` name, why
``piece`` name, start, packed, crc32;   ``want``, ``again`` name: its SHA-256 differs, look at the
bytes                                   file again; or ``have``
``gone`` name                           nothing: the file that it asked for is not there any more
``ping``                                ``pong``
======================================  ==========================================================

At any time the receiver may send ``restart``, with why: it does not know this sender (it was
started again) or could not write. The sender then begins with ``hello`` on a new connection.

*What is where.* The receiver's folder holds ``frames/`` and ``journal/``. A name is the path of a
frame file relative to the sender's frames directory. ``roots`` are the spellings of that
directory; in the lines of a journal that say where frames are, the receiver replaces it with its
own ``frames/``. ``pause`` is the longest time between two pieces at the sender's rate, s, and 0
without a rate. ``source`` is the same for one journal directory of one host: a sender that comes
again, with the same key, takes the place of its former connection. All other lines are written as
they came, each checked by its own checksum.

*Order.* A line that announces frames is sent once these are on the far disk, and the stop document
after all frames of its run. So a journal that ends there is a run that is whole there.

*Memory.* Frames move only when the receiver asks for them, at most `WINDOW` bytes at a time over
all senders, in equal shares of those that offer files, each at least a piece; a sender reads a
piece when it sends it. What a sender offers is dropped when it sends no piece for a minute beyond
its ``pause``; it offers it again.

*Bytes.* A piece goes compressed where that makes it smaller (``packed``, Zstandard); ``crc32`` and
``sha256`` are of what is in the file.

*Resuming.* Both ends keep nothing but their files. The receiver counts the lines of its journals
and finds a half-received file by its draft, ``.NAME.SHA256.part``.
"""

WINDOW = 32 << 20
"""Bytes that a receiver has asked for at a time, over all senders."""
