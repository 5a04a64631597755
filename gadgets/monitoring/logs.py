"""Log records as JSON, one on a line, with the id of the scan that they belong to."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

from gadgets.monitoring.scan_id import SCAN_ID


class JsonFormatter(logging.Formatter):
    """``{"time", "level", "logger", "message"}``, ``"scan"`` within one and ``"exception"`` with one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        told = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if scan := SCAN_ID.get():
            told["scan"] = scan
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)
