"""A griffe extension for mkdocs: the doctests that end a docstring become its section of examples.

Google style wants a heading over them, the source does without: ``>>>`` is heading enough there, and would be
three nested quotations on a page.
"""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts ``Examples:`` over every run of doctest lines, which ends at a blank line."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None and ">>>" in obj.docstring.value:
            obj.docstring.value = _DOCTEST.sub(_as_section, _joined(obj.docstring.value))


def _joined(text: str) -> str:
    """A blank line between two doctests separates nothing that a reader of the page would see."""
    return re.sub(r"(^(?:>>> |\.\.\. ).*\n(?:(?!>>> ).+\n)*)\n(?=>>> )", r"\1", text, flags=re.MULTILINE)


def _as_section(match: "re.Match[str]") -> str:
    return "Examples:\n" + "\n".join("    " + line for line in match.group().splitlines())
