"""The few elements of SVG that a picture needs. What is drawn stands in engine.frontier_plot."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

_FONTS = "system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif"


def picture(width: float, height: float) -> Element:
    """An empty one, white, so that it can be read on any page."""
    size = f"{width:g}", f"{height:g}"
    svg = Element("svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {size[0]} {size[1]}")
    svg.attrib |= {"width": size[0], "height": size[1], "font-family": _FONTS}
    element(svg, "rect", width=width, height=height, fill="#fff")
    return svg


def element(parent: Element, name: str, **attributes: str | float) -> Element:
    """Underscores stand for hyphens; numbers are given to a tenth."""
    texts = {
        key.replace("_", "-"): value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0")
        for key, value in attributes.items()
    }
    return ElementTree.SubElement(parent, name, texts)


def line(parent: Element, x1: float, y1: float, x2: float, y2: float, **style: str) -> None:
    """A straight one."""
    element(parent, "line", x1=x1, y1=y1, x2=x2, y2=y2, **style)


def text(parent: Element, x: float, y: float, words: str, size: int = 12, **style: str) -> Element:
    """One line of it, from x on unless `text_anchor` says otherwise, standing on y."""
    made = element(parent, "text", x=x, y=y, font_size=size, **{"fill": "#222", **style})
    made.text = words
    return made


def as_file(svg: Element) -> bytes:
    """What a file of it holds."""
    content: bytes = ElementTree.tostring(svg, encoding="utf-8", xml_declaration=True)
    return content + b"\n"
