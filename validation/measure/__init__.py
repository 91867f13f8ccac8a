"""Measuring on the GPU at hand: suites of cases, run in processes of their own, into a file that only grows.

``case`` and ``suites`` say what is measured, ``calls`` and ``check`` run it and see that it is right, ``device`` times
it, ``worker`` and ``pool`` keep each case's failures to itself, ``journal`` keeps what was measured, ``campaign`` is the
walk through a suite. Only worker processes import torch and triton; nothing here imports click or rich, so that
``python -m attncast.validation.measure`` needs numpy, torch and triton alone.
"""
