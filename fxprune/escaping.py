r"""Names that users and files brought, made harmless for where they are shown: one function a medium.

A layer's name can be any text.  On a terminal an escape sequence in it would move the cursor or set the title of
the window, in Markdown it could fetch an image from the net, in a plot it would be taken for a formula.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["dot", "line", "markdown", "plot", "terminal", "xml"]

# Other characters of general category C (controls, directions of writing, surrogates) are as bad as escape.
_KEPT = frozenset("\n\t")
_MARKS = re.compile(r"([\\`*<>\[\]&|~#!$])|(?<![^\W_])_|_(?![^\W_])|:(?=//)")


def _visible(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode()


def _harmful(char: str) -> bool:
    # Unassigned ones are left: Python's table may be older than the user's emoji.
    return unicodedata.category(char) in ("Cc", "Cf", "Cs") or char in "\u2028\u2029"


def terminal(text: str) -> str:
    r"""For a terminal: whatever steers it is spelled out; lines and tabs stay.

    Example:
        >>> print(terminal("a\x1b[31mb"))
        a\x1b[31mb
    """
    text = str(text)  # a damaged file may have bytes for a name
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(c) if c not in _KEPT and _harmful(c) else c for c in text)


def line(text: str) -> str:
    r"""For one line of a terminal: a cell of a table, say.

    Example:
        >>> print(line("a\nb"))
        a\nb
    """
    return terminal(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown(text: str) -> str:
    r"""For one line of Markdown: no HTML, image, link or emphasis comes from a name.

    Example:
        >>> print(markdown("![x](http://a/b.png) <img> layer1.0.conv_1"))
        \!\[x\](http\://a/b.png) \<img\> layer1.0.conv_1
    """
    return _MARKS.sub(lambda m: f"\\{m[0]}", line(text))


def plot(text: str) -> str:
    r"""For matplotlib, which takes what stands between two dollars for a formula.

    Example:
        >>> print(plot("a$b{c$"))
        a\$b{c\$
    """
    return line(text).replace("$", "\\$")


def xml(text: str) -> str:
    r"""For an XML writer: characters that no XML file may hold are spelled out; the writer does the rest.

    Example:
        >>> print(xml("a\x01b"))
        a\x01b
    """
    return "".join(
        _visible(c) if c not in "\n\t" and (_harmful(c) or c in "\ufffe\uffff") else c for c in text
    )


def dot(text: str) -> str:
    r"""A quoted string of Graphviz.

    Example:
        >>> print(dot('say "a\\b"'))
        "say \"a\\b\""
    """
    escaped = terminal(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
