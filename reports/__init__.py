"""Pages from results: self-contained HTML with its figures as PNG and its tables as CSV beside it."""
