"""mkdocs hooks: formulas are set, so that pages need no script or network; every statement is linked to its
evidence; every public name is shown."""

import html
import json
import logging
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^\s$](?:[^$]*?[^\s$])?)\$", re.DOTALL)
_LOG = logging.getLogger("mkdocs.hooks.reference")
_SUBSCRIPT = re.compile(r"(?<=[\w)])_(\w+)")
_SUPERSCRIPT = re.compile(r"\^(?:\(([^()]+)\)|(\w))")
_VERBATIM = re.compile(r"(<(pre|code|script|style|svg)\b.*?</\2>)", re.DOTALL)


def on_page_content(content: str, *, page: Any, **kwargs: Any) -> str:
    """Formulas between dollars, as notebooks have them, outside of code; in theory plain text too."""
    place = page.file.src_uri
    parts = _VERBATIM.split(content)
    # The split gives text, verbatim block, its tag, text, …: formulas are looked for in the text alone.
    parts[::3] = [_FORMULA.sub(_mathml, text) for text in parts[::3]]
    del parts[2::3]
    content = "".join(parts)
    if place in ("theory.md", "claims.md", "questions.md"):
        content = _set_plain(content)
    if place == "theory.md":  # a statement links to its row, and a row to its statement
        content = re.sub(
            r"<strong>(\d\.\d+)</strong>",
            r'<strong id="s\1"><a href="claims.html#s\1">\1</a></strong>',
            content,
        )
    if place == "claims.md":
        content = re.sub(
            r"<td>(\d\.\d+)</td>", r'<td id="s\1"><a href="theory.html#s\1">\1</a></td>', content
        )
    return content


def _set_plain(content: str) -> str:
    """q_i and p^(1/T) with subscripts and superscripts, outside of code, formulas and tags."""
    parts = re.split(r"(<(pre|code|math)\b.*?</\2>|<[^>]*>)", content, flags=re.DOTALL)
    for at in range(0, len(parts), 3):
        text = _SUBSCRIPT.sub(r"<sub>\1</sub>", parts[at])
        parts[at] = _SUPERSCRIPT.sub(lambda found: f"<sup>{found[1] or found[2]}</sup>", text)
    del parts[2::3]
    return "".join(parts)


def _mathml(match: "re.Match[str]") -> str:
    shown, inline = match.groups()
    source = html.unescape(re.sub(r"<[^>]*>", "", shown or inline))
    if shown:  # wider than a narrow screen it scrolls, which a math element alone does not
        return f'<span class="formula">{convert(source, display="block")}</span>'
    return convert(source, display="inline")


def on_post_build(config: Any, **kwargs: Any) -> None:
    """A public name without an anchor in the reference is a warning, which a strict build refuses."""
    pages = [page.read_text(encoding="utf-8") for page in Path(config.site_dir, "reference").glob("*.html")]
    anchors = {name for page in pages for name in re.findall(r'id="sparsekd_jax\.([\w.]+)"', page)}
    promised = Path(config.config_file_path).parent / "tests" / "public_names.json"
    for room, names in json.loads(promised.read_text(encoding="utf-8")).items():
        for name in names:
            if f"{room}.{name}" not in anchors:
                _LOG.warning("docs/reference shows no sparsekd_jax.%s.%s", room, name)
