"""The data of a report: tables, figures and verdicts, for the page and every other format."""
