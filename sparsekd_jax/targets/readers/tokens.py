"""From the tokens of a log to ids in [0, V)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

UNKNOWN = -2
"""The id of a token that the vocabulary lacks."""

OUTSIDE = -3
"""The id of a number outside [0, V)."""

MISSPELLED = -4
"""The id of a token whose bytes are no bytes."""

_PREFIX = "token_id:"
_REPLACED = "�"


def to_id(digits: Any) -> int | None:
    """The id that plain decimal digits spell; None for anything else."""
    fine = type(digits) is str and digits.isascii() and digits.isdigit() and len(digits) < 11
    return int(digits) if fine else None


class Vocabulary:
    """The teacher's tokens.

    A text with U+FFFD stands for bytes that are no text, and several tokens share it: there the bytes decide,
    where the log has them. With a vocabulary of bytes they always do. ``token_id:N`` is the id N everywhere.

    Args:
        tokens: ``{text: id}``, ``{bytes: id}``, or V alone for logs of ids; None gives every new token the
            next id, for looking into a log whose tokenizer is not at hand.
        size: V, where the mapping leaves ids out; the largest id + 1 by default.

    Raises:
        ValueError: an id twice, negative, or not below V.

    >>> Vocabulary({"a": 0, "b": 1}).ids(["b", "a", "token_id:1", "c"], None).tolist()
    [1, 0, 1, -2]
    """

    def __init__(
        self, tokens: Mapping[str, int] | Mapping[bytes, int] | int | None, size: int | None = None
    ) -> None:
        if isinstance(tokens, bool) or not isinstance(tokens, int | Mapping | None):
            raise TypeError(
                f"vocabulary is {type(tokens).__name__}; it is {{text: id}}, {{bytes: id}} or a size"
            )
        self.is_open = tokens is None
        self._of: dict[Any, int] = dict(tokens) if isinstance(tokens, Mapping) else {}
        kinds = set(map(type, self._of))
        if isinstance(tokens, Mapping) and kinds not in ({str}, {bytes}):
            raise TypeError("vocabulary's keys are all texts or all bytes, and there is one at least")
        self._by_bytes, self._by_id = kinds == {bytes}, isinstance(tokens, int)
        if self.is_open:
            self.size = 2**31 - 1
        else:
            self.size = tokens if isinstance(tokens, int) else size or max(self._of.values()) + 1
        if not 1 < self.size < 2**31:
            raise ValueError(f"vocabulary has size {self.size}; V is from 2 to 2³¹ − 1")
        if any(type(i) is not int or not 0 <= i < self.size for i in self._of.values()):
            bad = next(k for k, i in self._of.items() if type(i) is not int or not 0 <= i < self.size)
            raise ValueError(
                f"vocabulary[{bad!r}] is {self._of[bad]}; ids are whole numbers in [0, {self.size})"
            )
        if len(set(self._of.values())) < len(self._of):
            raise ValueError("vocabulary gives one id to two tokens; the ids of a position must be distinct")
        self._texts = _Texts(self)
        self._bytes = _Spellings()

    def ids(self, tokens: list[Any], spelled: list[Any] | None) -> Int[np.ndarray, " n"]:
        """Ids of tokens, `UNKNOWN` or `OUTSIDE` where there is none.

        Args:
            tokens: texts, or ids.
            spelled: their bytes as lists of whole numbers, None where not given.
        """
        if tokens and type(tokens[0]) is int:
            try:
                numbers = np.array(tokens, np.int64)
            except OverflowError:
                numbers = np.array([i if 0 <= i < self.size else OUTSIDE for i in tokens], np.int64)
            return np.where((numbers >= 0) & (numbers < self.size), numbers, OUTSIDE)
        found = list(map(self._texts.__getitem__, tokens))
        if spelled is not None and not self._by_id and spelled.count(None) < len(spelled):
            self._use_bytes(tokens, spelled, found)
        return np.array(found, np.int64)

    def _use_bytes(self, tokens: list[str], spelled: list[Any], found: list[int]) -> None:
        """Where bytes decide, and are not simply the text's, look them up instead."""
        if self._by_bytes:
            expected = list(map(self._bytes.__getitem__, tokens))
            if spelled == expected:
                return
            decided = [
                i
                for i, own in enumerate(spelled)
                if own is not None and own != expected[i] and not tokens[i].startswith(_PREFIX)
            ]
        elif _REPLACED in "".join(tokens):
            decided = [i for i, text in enumerate(tokens) if _REPLACED in text and spelled[i] is not None]
        else:
            return
        for i in decided:
            found[i] = self._of_bytes(spelled[i])

    def _of_bytes(self, octets: list[int]) -> int:
        try:
            raw = bytes(octets)
        except (TypeError, ValueError):
            return MISSPELLED
        if self.is_open:
            return self._of.setdefault(raw, len(self._of))
        try:
            return self._of.get(raw if self._by_bytes else raw.decode("utf-8"), UNKNOWN)
        except UnicodeDecodeError:
            return UNKNOWN


class _Texts(dict[str, int]):
    """Text to id, filled as texts are met; no more than the vocabulary holds."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        by_text = not (vocabulary._by_bytes or vocabulary.is_open)
        super().__init__(vocabulary._of if by_text else {})
        self._vocabulary = vocabulary

    def __missing__(self, text: str) -> int:
        vocabulary = self._vocabulary
        is_id = text.startswith(_PREFIX) and not vocabulary.is_open
        number = to_id(text.removeprefix(_PREFIX)) if is_id else None
        if number is not None:
            found = number if number < vocabulary.size else OUTSIDE
        elif vocabulary._by_bytes:
            found = vocabulary._of.get(text.encode("utf-8", "surrogatepass"), UNKNOWN)
        elif vocabulary.is_open:
            found = vocabulary._of.setdefault(text, len(vocabulary._of))
        else:
            found = UNKNOWN
        if found >= 0:
            self[text] = found
        return found


class _Spellings(dict[str, list[int]]):
    """Text to its bytes."""

    def __missing__(self, text: str) -> list[int]:
        if len(self) >= 1 << 18:
            self.clear()
        self[text] = found = list(text.encode("utf-8", "surrogatepass"))
        return found
