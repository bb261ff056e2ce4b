"""Planned processes as Kubernetes objects: plain dictionaries, from plain facts. Pure.

Below: the contract and `plan.types`. Above: `world.cluster`, which sends what comes out of here.
"""
