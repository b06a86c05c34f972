"""The slow, obvious twin of engine.masks: a filter asked of one item at a time, whose values are plain Python.

Of a shop's attributes `items` makes one dict per item: name -> str, list of str, float, bool or datetime; a name is
absent where the item has no value. Shares nothing with the engine but the dataclasses of filters.
"""

from __future__ import annotations

import datetime
import math

from engine.attributes import Dates, Lists
from engine.filters import All, Any, AnyOf, Exists, NoneOf, Not, Range
from engine.ids import StringTable


def items(attributes, n_items):
    """One dict of values per item."""
    return [
        {name: value for name, column in attributes.items() if (value := value_of(column, row)) is not None}
        for row in range(n_items)
    ]


def value_of(column, row):
    if isinstance(column, StringTable):
        return column[row] or None
    if isinstance(column, Lists):
        return [column.texts[place] for place in range(column.starts[row], column.starts[row + 1])] or None
    if isinstance(column, Dates):
        return None if math.isnan(column.seconds[row]) else moment(column.seconds[row])
    value = column[row].item()
    return None if isinstance(value, float) and math.isnan(value) else value


def moment(seconds):
    return datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)


def meets(item, filter):
    """Whether an item meets a filter that fits the attributes."""
    match filter:
        case All():
            return all(meets(item, each) for each in filter.filters)
        case Any():
            return any(meets(item, each) for each in filter.filters)
        case Not():
            return not meets(item, filter.filter)
        case AnyOf():
            return any(holds(item.get(filter.attribute), text) for text in filter.values)
        case NoneOf():
            return not any(holds(item.get(filter.attribute), text) for text in filter.values)
        case Exists():
            return filter.attribute in item
        case Range():
            value = item.get(filter.attribute)
            low = filter.min if filter.min_time is None else filter.min_time
            high = filter.max if filter.max_time is None else filter.max_time
            return value is not None and (low is None or value >= low) and (high is None or value <= high)


def holds(value, text):
    match value:
        case None:
            return False
        case bool():
            return text == ("true" if value else "false")
        case list():
            return text in value
        case float():
            return value == float(text)
        case datetime.datetime():
            asked = datetime.datetime.fromisoformat(text)
            return value == (asked if asked.tzinfo else asked.replace(tzinfo=datetime.UTC))
        case _:
            return value == text
