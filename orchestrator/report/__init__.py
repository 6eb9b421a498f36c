"""Run records -> results.csv, report.html, answers, exports, status and notifications."""
