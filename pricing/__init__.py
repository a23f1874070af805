"""The core, and pure: money, settings, the rate card, rating, spend windows, caps, plans, reconciliation.

Nothing here reads a file, a clock, the environment or a random number, and nothing logs: text, times and
amounts arrive as arguments and leave as values, so that the same input gives the same digits on every run.
"""
