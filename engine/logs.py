"""How the log is written: lines for people, or one JSON object a line for collectors. To standard error, always."""

from __future__ import annotations

import datetime
import json
import logging
import sys

FORMS = ("text", "json")
_OURS = ("nearcart", "engine", "trainer")


def set_up_logging(form: str = "text", worker: int | None = None) -> None:
    """Write what this program logs from INFO on, and warnings of others; `worker` says which process it is."""
    formatter = _Json(worker) if form == "json" else _Text(worker)
    root = logging.getLogger()
    if not root.handlers:  # whoever embeds this program has a log of his own
        root.addHandler(logging.StreamHandler(sys.stderr))
        root.handlers[0].setFormatter(formatter)
    for handler in root.handlers:
        if isinstance(handler.formatter, _Json | _Text):
            handler.setFormatter(formatter)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)


class _Text(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        who = "" if worker is None else f" worker {worker}:"
        super().__init__(f"%(asctime)s %(levelname)s{who} %(message)s")


class _Json(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields: dict[str, object] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker is not None:
            fields["worker"] = self._worker
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)
