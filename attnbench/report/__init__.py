"""The HTML report: one self-contained page with tables, charts, mask pictures and the environment."""

from attnbench.report.page import make_report
from attnbench.report.write import newest_run, report_path, write_report, write_whole

__all__ = ["make_report", "newest_run", "report_path", "write_report", "write_whole"]
