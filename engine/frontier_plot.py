"""The picture of a choice: recall against the time of a query, for every search and setting that was measured.

SVG, written by hand, so that the program that rebuilds an index needs no plotting library. Recall is stretched towards
1, as the logarithm of what is missed. Checked by tests/test_frontier_plot.py.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from engine.choice import Candidate, Trial
from engine.measurement import RECALL_AT
from engine.svg import as_file, element, line, picture, text

_WIDTH, _HEIGHT = 940, 540
_LEFT, _TOP, _RIGHT, _BOTTOM = 76, 76, 690, 470
"""The edges of the frame in which points stand."""
_RECALLS = (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_LEAST_MISSED = 2e-4
"""Recall of 1 is drawn where so little is missed."""
_COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5230")
"""Of Okabe and Ito (2008), which colour-blind people can tell apart, and a brown."""
_PROMISE = "#b00020"
_DASHES = {"stroke": _PROMISE, "stroke_dasharray": "7 4", "stroke_width": "1.5"}
_HALO = {"stroke": "#fff", "stroke_width": "3", "paint_order": "stroke"}
"""Around letters, so that lines that pass behind do not cross them."""
_SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, 1), (-1, -1), (1, -1), (-1, 1))
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Point:
    """One setting of a search; its recall is that of the kind of query with the smallest lower bound."""

    family: str
    label: str
    microseconds: float
    recall: float
    lower: float
    is_judged: bool

    @classmethod
    def of(cls, family: str, each: Candidate | Trial, is_judged: bool) -> _Point:
        worst = min(each.measured.values(), key=lambda measured: measured.lower)
        label = (each.plan.search_parameters if isinstance(each, Candidate) else each.search_parameters) or family
        return cls(family, label, each.microseconds, worst.recall, worst.lower, is_judged)

    @property
    def told(self) -> str:
        return f"{self.recall:.4f} (at least {self.lower:.4f}) in {self.microseconds:,.0f} us"


def frontier_plot(candidates: Sequence[Candidate], promised_recall: float) -> bytes:
    """An SVG file of what engine.choice.choose found; the first candidate is the chosen one."""
    points = list(_points(candidates))
    axes = _Axes(points, promised_recall)
    svg = picture(_WIDTH, _HEIGHT)
    text(svg, _LEFT, 30, f"recall@{RECALL_AT} against the time of a query", 17, font_weight="600")
    text(svg, _LEFT, 54, f"chosen: {candidates[0].plan}, {points[0].told}")
    _draw_grid(svg, axes)
    line(svg, _LEFT, axes.promise, _RIGHT, axes.promise, **_DASHES)
    families = sorted({point.family for point in points}, key=lambda family: (not family.endswith("exact"), family))
    colours = dict(zip(families, itertools.cycle(_COLOURS), strict=False))
    for family, colour in colours.items():
        _draw_family(svg, axes, [point for point in points if point.family == family], colour)
    x, y = axes.place(points[0])
    element(svg, "circle", cx=x, cy=y, r=10, fill="none", stroke=_PROMISE, stroke_width="2")
    _draw_labels(svg, axes, points, colours)
    _draw_legend(svg, colours, promised_recall)
    return as_file(svg)


def _points(candidates: Sequence[Candidate]) -> Iterator[_Point]:
    """What was judged, each followed by the settings that tuning tried before it."""
    for each in candidates:
        family = f"{each.plan.factory}, exact" if each.plan.is_exact else each.plan.factory
        if each.is_judged:
            yield _Point.of(family, each, True)
        for trial in each.trials:
            if not (each.is_judged and trial.search_parameters == each.plan.search_parameters):
                yield _Point.of(family, trial, False)


class _Axes:
    """Microseconds and recalls to places in the picture."""

    def __init__(self, points: Sequence[_Point], promised_recall: float) -> None:
        times = [point.microseconds for point in points]
        self.fastest, self.slowest = min(times) / 1.3, max(times) * 1.3
        least = min(promised_recall, *(point.lower for point in points))
        self.least = max(each for each in _RECALLS if each <= max(least, 0))
        self.promise = self.y(promised_recall)

    def x(self, microseconds: float) -> float:
        share = math.log(microseconds / self.fastest) / math.log(self.slowest / self.fastest)
        return _LEFT + share * (_RIGHT - _LEFT)

    def y(self, recall: float) -> float:
        missed, most = max(1 - recall, _LEAST_MISSED), 1 - self.least
        share = math.log(min(missed, most) / most) / math.log(_LEAST_MISSED / most)
        return _BOTTOM - share * (_BOTTOM - _TOP)

    def place(self, point: _Point) -> tuple[float, float]:
        return self.x(point.microseconds), self.y(point.recall)

    def times(self) -> list[float]:
        """Round ones, closer where the axis is short."""
        digits = (1, 2, 5) if self.slowest > 20 * self.fastest else (1, 1.5, 2, 3, 4, 5, 7)
        ticks = [digit * 10.0**power for power in range(-1, 9) for digit in digits]
        return [tick for tick in ticks if self.fastest <= tick <= self.slowest]


def _draw_grid(svg: Element, axes: _Axes) -> None:
    for tick in axes.times():
        line(svg, axes.x(tick), _TOP, axes.x(tick), _BOTTOM, stroke="#e4e4e4")
        text(svg, axes.x(tick), _BOTTOM + 20, f"{tick:,.10g}", text_anchor="middle")
    for recall in (*(each for each in _RECALLS if each >= axes.least), 1.0):
        line(svg, _LEFT, axes.y(recall), _RIGHT, axes.y(recall), stroke="#e4e4e4")
        text(svg, _LEFT - 8, axes.y(recall) + 4, f"{recall:g}", text_anchor="end")
    element(svg, "rect", x=_LEFT, y=_TOP, width=_RIGHT - _LEFT, height=_BOTTOM - _TOP, fill="none", stroke="#888")
    across, up = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    text(svg, across, _BOTTOM + 44, "microseconds a query, asked alone", text_anchor="middle")
    turned = {"text_anchor": "middle", "transform": f"rotate(-90 24 {up:g})"}
    text(svg, 24, up, f"recall@{RECALL_AT} of the worst kind of query", 12, **turned)


def _draw_family(svg: Element, axes: _Axes, points: Sequence[_Point], colour: str) -> None:
    """Filled points are judged, hollow ones tuned; each has a bar down to its lower bound, and a line joins them."""
    ordered = sorted(points, key=lambda point: point.microseconds)
    route = " ".join("{:.1f},{:.1f}".format(*axes.place(point)) for point in ordered)
    element(svg, "polyline", points=route, fill="none", stroke=colour, stroke_opacity="0.35", stroke_width="1.5")
    for point in ordered:
        (x, y), low = axes.place(point), axes.y(point.lower)
        line(svg, x, y, x, low, stroke=colour)
        line(svg, x - 4, low, x + 4, low, stroke=colour)
        radius, fill = (5.0, colour) if point.is_judged else (3.5, "#fff")
        dot = element(svg, "circle", cx=x, cy=y, r=radius, fill=fill, stroke=colour)
        element(dot, "title").text = f"{point.family}, {point.label}: {point.told}"


def _draw_labels(svg: Element, axes: _Axes, points: Sequence[_Point], colours: Mapping[str, str]) -> None:
    """Each setting beside its point, where no other label or point is; without room, its tooltip has to do."""
    taken = [_box(*axes.place(point), 5) for point in points]
    taken.append((_LEFT, axes.promise, _RIGHT, axes.promise))
    for point in sorted(points, key=lambda point: not point.is_judged):
        (x, y), size = axes.place(point), 12 if point.is_judged else 10
        half, steps = len(point.label) * size * 0.31, (18, 24) if point.is_judged else (9, 13, 17)
        for step, (right, down) in itertools.product(steps, _SIDES):
            box = _box(x + right * (step + half), y + down * step, half)
            inside = box[0] > _LEFT and box[2] < _RIGHT and box[1] > _TOP and box[3] < _BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                style = {"text_anchor": "middle", "fill": colours[point.family], **_HALO}
                text(svg, (box[0] + box[2]) / 2, box[3] - 3, point.label, size, **style)
                break


def _box(x: float, y: float, half: float) -> _Box:
    return x - half, y - 7, x + half, y + 7


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_legend(svg: Element, colours: Mapping[str, str], promised_recall: float) -> None:
    x, y = _RIGHT + 24, _TOP + 8
    said = ["chosen", "tried in tuning", "lower 95% bound", f"promised: {promised_recall:g}"]
    for i, words in enumerate([*colours, *said]):
        text(svg, x + 16, y + 24 * i + 4, words)
    for colour in colours.values():
        element(svg, "circle", cx=x, cy=y, r=5, fill=colour)
        y += 24
    element(svg, "circle", cx=x, cy=y, r=8, fill="none", stroke=_PROMISE, stroke_width="2")
    element(svg, "circle", cx=x, cy=y + 24, r=3.5, fill="#fff", stroke="#222")
    line(svg, x, y + 40, x, y + 54, stroke="#222")
    line(svg, x - 4, y + 54, x + 4, y + 54, stroke="#222")
    line(svg, x - 9, y + 72, x + 9, y + 72, **_DASHES)
