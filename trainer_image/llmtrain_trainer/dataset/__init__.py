"""Prepared data as it lies in the store: written once, read by every run that wants the same.

Below: `store`. Above: `prepare` writes, `training` and `evaluate` read, people look at it.
"""
