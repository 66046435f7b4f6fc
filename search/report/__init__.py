"""report.html: what a run found, on one page that works offline."""

from niwaki.search.report.data import BudgetLine, Costs, Member, Point, ReportData
from niwaki.search.report.page import render, write_report

__all__ = ["BudgetLine", "Costs", "Member", "Point", "ReportData", "render", "write_report"]
