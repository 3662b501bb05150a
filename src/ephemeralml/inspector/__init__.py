"""What an auditor looks at: the page that verifies a receipt in a browser, and a report of what Python found."""

from ephemeralml.inspector.findings import Findings, judge_file
from ephemeralml.inspector.page import build_page
from ephemeralml.inspector.report import render_report

__all__ = ["Findings", "build_page", "judge_file", "render_report"]
