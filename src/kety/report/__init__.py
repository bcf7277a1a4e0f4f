"""One self-contained HTML page that shows whether maps can be believed."""

from kety.report.html import write_report
from kety.report.windows import WINDOWS, Window

__all__ = ["WINDOWS", "Window", "write_report"]
