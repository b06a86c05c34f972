"""The picture of a choice: well-formed, complete, true to scale, and readable."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from engine.choice import Candidate, Trial
from engine.frontier_plot import _BOTTOM, _LEFT, _RIGHT, _TOP, frontier_plot
from engine.measurement import Measured
from engine.plan import IndexPlan

NAMES = {"s": "http://www.w3.org/2000/svg"}


def measured(recall, microseconds, lower=None):
    """Of two kinds of query, the second of which is found worse, and the same time for both."""
    lower = recall - 0.01 if lower is None else lower
    return {
        "user": Measured(min(1.0, recall + 0.1), min(1.0, lower + 0.1), 250, microseconds),
        "cart": Measured(recall, lower, 250, microseconds),
    }


def exact(microseconds=60.0):
    return Candidate(IndexPlan(), measured(1.0, microseconds, 1.0), True, 0.0, 0)


def tuned(factory, settings, promise=0.9):
    """A candidate with trials of (setting, recall, microseconds); it is judged where the last one kept the promise."""
    trials = [Trial(setting, measured(recall, us)) for setting, recall, us in settings]
    setting, recall, us = settings[-1]
    if recall - 0.01 < promise:
        return Candidate(IndexPlan(factory, setting), trials[-1].measured, False, 1.0, 10, trials)
    return Candidate(IndexPlan(factory, setting), measured(recall - 0.001, 1.1 * us), True, 1.0, 10, trials)


FOUND = [
    tuned(
        "Quantized1", [("deviations=0.4", 0.7, 15.0), ("deviations=0.5", 0.85, 20.0), ("deviations=0.6", 0.95, 30.0)]
    ),
    exact(),
    tuned("IVF256,Flat", [(f"nprobe={2**i}", 0.3 + 0.1 * i, 20.0 + 8 * i) for i in range(5)]),
    tuned("IVF256,PQ64x4fs", [("nprobe=1,rerank=4", 0.3, 40.0), ("nprobe=1,rerank=12", 0.31, 41.0)]),
]


def drawn(found=FOUND, promise=0.9):
    return ElementTree.fromstring(frontier_plot(found, promise))


def dots(svg):
    """What its tooltip tells of each point -> (x, y, whether it is filled)."""
    found = {}
    for circle in svg.iterfind("s:circle", NAMES):
        title = circle.find("s:title", NAMES)
        if title is not None:
            assert title.text not in found
            found[title.text] = (float(circle.get("cx")), float(circle.get("cy")), circle.get("fill") != "#fff")
    return found


def labels(svg):
    """Setting -> the box that it takes, by the width that a letter has at most."""
    known = {setting for each in FOUND for setting in [each.plan.search_parameters, *names(each)] if setting}
    boxes = {}
    for text in svg.iterfind("s:text", NAMES):
        if text.text in known:
            half = 0.29 * len(text.text) * float(text.get("font-size"))
            x, y = float(text.get("x")), float(text.get("y"))
            assert text.text not in boxes
            boxes[text.text] = (x - half, y - 0.8 * float(text.get("font-size")), x + half, y + 2)
    return boxes


def names(candidate):
    return [trial.search_parameters for trial in candidate.trials]


def test_every_candidate_and_every_trial_is_a_point_once():
    found = dots(drawn())
    told = sorted((text.partition(": ")[0], filled) for text, (_, _, filled) in found.items())
    assert told == sorted(
        [
            ("Pruned, exact, Pruned, exact", True),
            ("Quantized1, deviations=0.6", True),
            ("Quantized1, deviations=0.4", False),
            ("Quantized1, deviations=0.5", False),
            *((f"IVF256,Flat, nprobe={2**i}", False) for i in range(5)),
            ("IVF256,PQ64x4fs, nprobe=1,rerank=4", False),
            ("IVF256,PQ64x4fs, nprobe=1,rerank=12", False),
        ]
    )


def test_a_point_tells_the_recall_of_the_worst_kind_with_its_lower_bound():
    assert "IVF256,Flat, nprobe=4: 0.5000 (at least 0.4900) in 36 us" in dots(drawn())


def test_points_stand_to_scale_within_the_frame():
    places = {text.partition(": ")[0]: place for text, place in dots(drawn()).items()}
    for x, y, _ in places.values():
        assert _LEFT < x < _RIGHT
        assert _TOP <= y <= _BOTTOM
    x = {name: place[0] for name, place in places.items()}
    y = {name: place[1] for name, place in places.items()}
    octave = (x["IVF256,PQ64x4fs, nprobe=1,rerank=4"] - x["Quantized1, deviations=0.5"]) / math.log(2)
    assert x["Pruned, exact, Pruned, exact"] - x["Quantized1, deviations=0.4"] == pytest.approx(
        math.log(4) * octave, abs=1
    )
    assert y["Pruned, exact, Pruned, exact"] == _TOP
    # Recall .7 misses twice what .85 misses, and so do .4 and .7.
    halving = y["Quantized1, deviations=0.4"] - y["Quantized1, deviations=0.5"]
    assert y["IVF256,Flat, nprobe=2"] - y["Quantized1, deviations=0.4"] == pytest.approx(halving, abs=0.3)


def test_the_promise_is_a_line_and_the_chosen_one_has_a_ring_and_is_named():
    svg = drawn()
    (ring,) = [c for c in svg.iterfind("s:circle", NAMES) if c.get("fill") == "none" and float(c.get("cx")) < _RIGHT]
    chosen = next(place for text, place in dots(svg).items() if text.startswith("Quantized1, deviations=0.6"))
    assert (float(ring.get("cx")), float(ring.get("cy"))) == chosen[:2]
    texts = [text.text for text in svg.iterfind("s:text", NAMES)]
    assert "chosen: Quantized1 with deviations=0.6, 0.9490 (at least 0.9390) in 33 us" in texts
    assert "promised: 0.9" in texts
    (promise,) = [each for each in svg.iterfind("s:line", NAMES) if each.get("x2") == str(_RIGHT)
                  and each.get("stroke-dasharray")]  # fmt: skip
    tick = next(text for text in svg.iterfind("s:text", NAMES) if text.text == "0.9")
    assert float(promise.get("y1")) == float(promise.get("y2")) == pytest.approx(float(tick.get("y")) - 4, abs=0.11)


def test_the_legend_has_every_family_in_a_colour_of_its_own():
    svg = drawn()
    families = ["Pruned, exact", "IVF256,Flat", "IVF256,PQ64x4fs", "Quantized1"]
    texts = [text.text for text in svg.iterfind("s:text", NAMES) if float(text.get("x")) > _RIGHT]
    assert texts[:4] == families
    colours = [c.get("fill") for c in svg.iterfind("s:circle", NAMES) if float(c.get("cx")) > _RIGHT][:4]
    assert len(set(colours)) == 4


def test_no_label_covers_another_one_or_a_point():
    svg = drawn()
    boxes = labels(svg)
    assert len(boxes) >= 9
    for one, other in itertools.combinations(boxes.values(), 2):
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
    for x, y, _ in dots(svg).values():
        assert not any(box[0] < x < box[2] and box[1] < y < box[3] for box in boxes.values())


def test_where_points_crowd_some_have_no_label_but_all_have_a_tooltip():
    crowd = tuned("HNSW32", [(f"efSearch={n}", 0.8 + 0.0001 * n, 30.0 + 0.01 * n) for n in range(40)])
    svg = drawn([exact(), crowd])
    shown = [text.text for text in svg.iterfind("s:text", NAMES) if (text.text or "").startswith("efSearch")]
    assert 0 < len(shown) < 40
    assert len(dots(svg)) == 41


def test_one_point_alone_is_a_picture_too():
    assert len(dots(drawn([exact()], 1.0))) == 1


@pytest.mark.parametrize("promise", [0.0, 0.37, 1.0])
def test_any_promise_can_be_drawn(promise):
    bad = tuned("IVF256,Flat", [("nprobe=1", 0.0, 20.0)], 0.99)
    assert len(dots(drawn([exact(), bad], promise))) == 2


def test_it_is_plain_svg_that_needs_nothing_and_is_white_on_any_page():
    content = frontier_plot(FOUND, 0.9)
    assert content == frontier_plot(FOUND, 0.9)
    assert len(content) < 64_000
    root = ElementTree.fromstring(content)
    first = root[0]
    assert (first.tag, first.get("fill")) == ("{http://www.w3.org/2000/svg}rect", "#fff")
    assert (first.get("width"), first.get("height")) == (root.get("width"), root.get("height"))
    assert not re.search(rb"href|url\(|<script|<style", content)
