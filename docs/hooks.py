"""mkdocs hook: formulas become MathML while the site is built: pages need no script and no network."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^\s$](?:[^$]*?[^\s$])?)\$", re.DOTALL)
_VERBATIM = re.compile(r"(<(pre|code|script|style|svg)\b.*?</\2>)", re.DOTALL)


def on_page_content(content: str, **kwargs: Any) -> str:
    """Formulas between dollars, as notebooks have them, outside of code."""
    parts = _VERBATIM.split(content)
    # The split gives text, verbatim block, its tag, text, …: formulas are looked for in the text alone.
    parts[::3] = [_FORMULA.sub(_mathml, text) for text in parts[::3]]
    del parts[2::3]
    return "".join(parts)


def _mathml(match: "re.Match[str]") -> str:
    shown, inline = match.groups()
    source = html.unescape(re.sub(r"<[^>]*>", "", shown or inline))
    return convert(source, display="block" if shown else "inline")
