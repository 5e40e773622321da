"""From a file to parsed lines, in the memory of one line."""

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparsekd_jax.targets.readers.records import Problem

MAX_BYTES = 1 << 26
"""The longest line, and the largest JSON list, that is read: 64 MiB."""

_UNPACK = "write one record a line: jq -c '.[]' FILE > FILE.jsonl"


def _plain(raw: bytes) -> Any:
    return json.loads(raw.decode("utf-8"))


def parser() -> Callable[[bytes], Any]:
    """Bytes to values by orjson, where it is installed; what is refused is tried again by `strict`."""
    loads: Callable[[bytes], Any] = _plain
    with contextlib.suppress(ImportError):
        from orjson import loads

    def parse(raw: bytes) -> Any:
        try:
            return loads(raw)
        except (ValueError, RecursionError):  # also NaN, −Infinity and lone surrogates, which people have
            return strict(raw)

    return parse


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Python's cycle collector off for a moment: parsed JSON has no cycles; looking for them costs half."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Problem(
            "",
            f"one object holds {twice!r:.60} twice",
            "log ids instead of texts (return_tokens_as_token_ids), or repair the writer",
            "repeated name",
        )
    return found


def strict(raw: bytes) -> Any:
    """Parse by the standard library, which takes NaN and ±Infinity; refuses a name repeated in an object.

    Raises:
        Problem: not UTF-8, or not JSON.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        what = f"byte {error.start} is not UTF-8"
        packed = raw.startswith(b"\x1f\x8b")
        remedy = "the file is compressed: gunzip it first" if packed else "write the log as UTF-8"
        raise Problem("", what, remedy, "not UTF-8") from None
    except (ValueError, RecursionError) as error:
        what = f"is not JSON ({str(error).partition(chr(10))[0]:.80})"
        remedy = (
            "the line is cut short, or two were written at once: remove it; "
            "where one record takes several lines: jq -c . FILE > FILE.jsonl"
        )
        if raw.lstrip().startswith(b"data:"):
            remedy = (
                "it is a server-sent event: keep what follows 'data:' in each line, and drop data: [DONE]"
            )
        raise Problem(
            "",
            what,
            remedy,
            "not JSON",
        ) from None


def lines(path: Path) -> Iterator[tuple[int, bytes | Problem]]:
    """Lines that are not blank, counted from 1, or the reason why one is not read."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_BYTES + 1):
            number += 1
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if len(raw) > MAX_BYTES:
                while (rest := file.readline(MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
                what = f"a line of more than {MAX_BYTES >> 20} MiB"
                yield number, Problem("", what, f"if it is one JSON list, {_UNPACK}", "line too long")
            elif not raw.isspace() and raw:
                yield number, raw


def listed(path: Path) -> list[Any] | None:
    """The items of a file that is one JSON list; None where it is not.

    Raises:
        Problem: more than 64 MiB, or not JSON.
    """
    with path.open("rb") as file:
        start = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start.startswith(b"["):
            return None
        size = path.stat().st_size
        if size > MAX_BYTES:
            what = (
                f"one JSON list of {size >> 20} MiB is not read in bounded memory (at most {MAX_BYTES >> 20})"
            )
            raise Problem("", what, _UNPACK, "list too long")
        file.seek(0)
        items = strict(file.read().removeprefix(b"\xef\xbb\xbf"))
    return items
