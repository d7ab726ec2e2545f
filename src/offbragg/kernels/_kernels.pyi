from _typeshed import ReadableBuffer as Buffer
from _typeshed import WriteableBuffer

Three = tuple[int, int, int]
Fold = tuple[Three, Three, Buffer, Buffer, Three, Three]
_Pair = tuple[Buffer, Buffer, float, float]

def levels() -> list[str]: ...
def chunk_bound(n: int, /) -> int: ...
def decode(level: int, stream: Buffer, out: WriteableBuffer, /) -> tuple[int, int]: ...
def encode(level: int, pixels: Buffer, out: WriteableBuffer, /) -> int: ...
def encode_cells(level: int, wide: bool, cells: Buffer, out: WriteableBuffer, /) -> int: ...
def decode_encode(
    level: int, stream: Buffer, n: int, out: WriteableBuffer, image: WriteableBuffer | None, /
) -> tuple[int, int, int]: ...
def md5(level: int, buffers: tuple[Buffer, ...], /) -> list[bytes]: ...
def crc64(level: int, before: int, data: Buffer, /) -> int: ...
def crc64_combine(first: int, second: int, length: int, /) -> int: ...
def strips(
    data: Buffer, offsets: Buffer, lengths: Buffer, swap: int, out: WriteableBuffer, /
) -> bool: ...
def decode_chunk(
    level: int, chunk: Buffer, n: int, first: int, out: WriteableBuffer, /
) -> tuple[int, int]: ...
def decode_cells(
    level: int, wide: bool, chunk: Buffer, n: int, first: int, out: WriteableBuffer, /
) -> tuple[int, int]: ...
def transform(
    level: int,
    counts: Buffer,
    turns: Buffer,
    flux: Buffer,
    inverse: Buffer,
    factor: Buffer,
    size: tuple[int, int],
    band: tuple[int, int, int, int],
    point: tuple[float, float],
    most: int,
    shape: tuple[int, int, int],
    low: WriteableBuffer,
    high: WriteableBuffer,
    changed: WriteableBuffer,
    subtract: bool,
    parts: tuple[int, int],
    fold: Fold | None,
    rate: Buffer | None,
    rate_flux: Buffer | None,
    /,
) -> None: ...

variance = transform  # takes the same

def fold(level: int, places: WriteableBuffer, fold: Fold, /) -> None: ...
def places(
    turn: Buffer,
    inverse: Buffer,
    size: tuple[int, int],
    band: tuple[int, int, int, int],
    point: tuple[float, float],
    shape: tuple[int, int, int],
    out: WriteableBuffer,
    /,
) -> None: ...
def symmetrise(
    array: Buffer | None,
    share: Buffer | None,
    out: WriteableBuffer,
    first: tuple[int, int, int],
    shape: tuple[int, int, int],
    operations: Buffer,
    steps: Buffer,
    part: int,
    parts: int,
    /,
) -> None: ...
def tiles(
    level: int,
    counts: Buffer,
    rows: int,
    columns: int,
    number: WriteableBuffer,
    middle: WriteableBuffer,
    highest: WriteableBuffer,
    /,
) -> None: ...
def bricks(
    level: int,
    numbers: Buffer,
    counts: _Pair,
    spread: _Pair | None,
    air: _Pair | None,
    side: Three,
    scratch: WriteableBuffer,
    out: WriteableBuffer | None,
    lengths: WriteableBuffer,
    bits: WriteableBuffer,
    levels: WriteableBuffer,
    /,
) -> int: ...
def brick_of_cells(
    level: int,
    counts: Buffer,
    weight: Buffer,
    variance: Buffer | None,
    background: Buffer | None,
    background_variance: Buffer | None,
    side: Three,
    scratch: WriteableBuffer,
    out: WriteableBuffer,
    lengths: WriteableBuffer,
    bits: WriteableBuffer,
    levels: WriteableBuffer,
    /,
) -> None: ...
def brick_sizes(spread: bool, air: bool, side: Three, /) -> tuple[int, int]: ...
def shells(
    level: int,
    h: Buffer,
    k: Buffer,
    l: Buffer,
    hk: Buffer | None,
    hl: Buffer | None,
    kl: Buffer | None,
    cut: Three,
    side: Three,
    thresholds: Buffer,
    bits: Buffer,
    beyond: WriteableBuffer,
    measured: WriteableBuffer,
    /,
) -> None: ...
