"""Measured runs, and how far the forecasts are from them."""
