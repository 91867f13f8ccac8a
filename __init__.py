"""attncast forecasts how fast an attention algorithm runs on a GPU that need not be at hand."""
