"""Checkpoints: made while training goes on, believed only when verified, found again anywhere.

Below: `store`, torch. Above: `train`, and the command line for people. Saving reads from `saving`
on, the way back from `restore` on.
"""
